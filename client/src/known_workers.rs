//! Which sealing keys a publisher seals weights to. The registry lists them, so whoever writes to the
//! registry could list their own: a key that a person has pinned, or that was sealed to before, is
//! held against the list, and nothing is sealed when they differ.
//!
//! Trust on first use, as ssh has it: the first key of a name is believed unless it is pinned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chemxor_runtime::pki::sealing_fingerprint;

use crate::publish::Worker;
use crate::{ClientError, files};

/// Shortest pin, in hexadecimal digits: 128 bits.
const SHORTEST_PIN: usize = 32;

/// `NAME` or `NAME=FINGERPRINT`, as a person writes a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedWorker {
    /// The worker.
    pub name: String,
    /// Hexadecimal digits that its fingerprint begins with.
    pin: Option<String>,
}

impl NamedWorker {
    /// Reads what a person wrote; spaces, dashes and colons between digits do not count.
    pub fn read(text: &str) -> Result<Self, ClientError> {
        let Some((name, pin)) = text.split_once('=') else {
            return Ok(Self {
                name: text.to_owned(),
                pin: None,
            });
        };
        let digits = pin.replace([' ', '-', ':'], "").to_ascii_lowercase();
        let hex = digits.chars().all(|digit| digit.is_ascii_hexdigit());
        if !hex || !(SHORTEST_PIN..=64).contains(&digits.len()) {
            return Err(ClientError::Placement(format!(
                "{pin:?} is no fingerprint: give {SHORTEST_PIN} to 64 hexadecimal digits, as \
                 `chemxor worker --config FILE --fingerprint` prints them on the worker's machine"
            )));
        }
        Ok(Self {
            name: name.to_owned(),
            pin: Some(digits),
        })
    }
}

/// The first half of a fingerprint in groups, for people to compare.
pub fn grouped(fingerprint: &str) -> String {
    let shown = fingerprint.get(..SHORTEST_PIN).unwrap_or(fingerprint);
    let groups: Vec<String> = shown
        .as_bytes()
        .chunks(4)
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    groups.join("-")
}

/// The keys that were sealed to before, by name: lines `NAME FINGERPRINT` of a file.
#[derive(Debug, Clone)]
pub struct KnownWorkers {
    path: PathBuf,
    known: BTreeMap<String, String>,
}

impl KnownWorkers {
    /// What a file says; an absent one is empty.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::File {
            path: path.to_owned(),
            reason,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(refuse(error.to_string())),
        };
        let mut known = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let Some((name, fingerprint)) = line.split_once(' ') else {
                return Err(refuse(format!(
                    "line {number} is no worker and fingerprint; mend it, or remove the file to trust \
                     the keys that the registry lists now"
                )));
            };
            known.insert(name.to_owned(), fingerprint.to_owned());
        }
        Ok(Self {
            path: path.to_owned(),
            known,
        })
    }

    /// Compares the keys that the registry lists with the pins and with what is known, and remembers
    /// them once all fit. With `accept_new_key` a changed one takes the place of the known one; a pin
    /// always holds. Gives the workers seen for the first time and not pinned.
    pub fn check(
        &mut self,
        listed: &[Worker],
        named: &[NamedWorker],
        accept_new_key: bool,
    ) -> Result<Vec<String>, ClientError> {
        let mut after = self.known.clone();
        let mut first = Vec::new();
        for worker in listed {
            let name = &worker.name;
            let found = sealing_fingerprint(&worker.sealing_key);
            let mut pins = named.iter().filter(|named| named.name == *name);
            let pin = pins.find_map(|named| named.pin.as_deref());
            if let Some(pin) = pin.filter(|pin| !found.starts_with(pin)) {
                return Err(ClientError::Placement(format!(
                    "worker {name}: the registry lists the sealing key {}, the pinned one is {}; \
                     nothing was sealed. Compare with `chemxor worker --config FILE --fingerprint` on \
                     its machine",
                    grouped(&found),
                    grouped(pin)
                )));
            }
            match self.known.get(name) {
                Some(known) if *known != found && pin.is_none() && !accept_new_key => {
                    return Err(ClientError::Placement(format!(
                        "worker {name} had the sealing key {} and the registry now lists {}; nothing \
                         was sealed. If the worker's key was made anew, as `chemxor worker --config \
                         FILE --fingerprint` shows on its machine, pass --accept-new-key",
                        grouped(known),
                        grouped(&found)
                    )));
                }
                None if pin.is_none() => first.push(name.clone()),
                _ => {}
            }
            after.insert(name.clone(), found);
        }
        if after != self.known {
            let lines: String = after
                .iter()
                .map(|(name, fingerprint)| format!("{name} {fingerprint}\n"))
                .collect();
            files::replace(&self.path, lines.as_bytes())?;
            self.known = after;
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a registry lists: names with keys.
    fn listed(keys: &[(&str, u8)]) -> Vec<Worker> {
        let worker = |(name, byte): &(&str, u8)| Worker {
            name: (*name).to_owned(),
            sealing_key: vec![*byte; 32].into(),
            ..Default::default()
        };
        keys.iter().map(worker).collect()
    }

    fn pinned(name: &str, byte: u8) -> NamedWorker {
        let fingerprint = sealing_fingerprint(&[byte; 32]);
        NamedWorker::read(&format!("{name}={}", grouped(&fingerprint))).unwrap()
    }

    #[test]
    fn a_registry_that_lists_another_key_is_found_by_what_was_sealed_to_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_workers");
        let honest = listed(&[("w1", 1), ("w2", 2)]);
        let mut known = KnownWorkers::load(&path).unwrap();
        assert_eq!(known.check(&honest, &[], false).unwrap(), ["w1", "w2"]);

        let mut known = KnownWorkers::load(&path).unwrap();
        assert!(known.check(&honest, &[], false).unwrap().is_empty());
        let lying = listed(&[("w3", 3), ("w1", 9)]);
        let refused = known.check(&lying, &[], false).unwrap_err().to_string();
        assert!(refused.contains("worker w1"), "{refused}");
        assert!(refused.contains("--accept-new-key"), "{refused}");
        // a refusal remembers nothing, also not of the workers before it
        let after = KnownWorkers::load(&path).unwrap();
        assert_eq!(after.known.len(), 2);

        let renewed = known.check(&lying, &[], true).unwrap();
        assert_eq!(renewed, ["w3"]);
        let mut after = KnownWorkers::load(&path).unwrap();
        assert!(after.check(&lying, &[], false).is_ok());
        assert!(after.check(&honest, &[], false).is_err());
    }

    #[test]
    fn a_pinned_key_holds_against_the_registry_even_when_new_keys_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_workers");
        let mut known = KnownWorkers::load(&path).unwrap();
        let lying = listed(&[("w1", 9)]);
        for accept in [false, true] {
            let refused = known.check(&lying, &[pinned("w1", 1)], accept);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("pinned"), "{refused}");
        }
        assert!(!path.exists());
        // the pin of another worker says nothing about this one
        let first = known.check(&lying, &[pinned("w2", 1)], false).unwrap();
        assert_eq!(first, ["w1"]);
        // a person who pins the new key has compared it
        let right = known.check(&listed(&[("w1", 1)]), &[pinned("w1", 1)], false);
        assert!(right.unwrap().is_empty());
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let full = sealing_fingerprint(&[1; 32]);
        let read = NamedWorker::read(&format!("w1={}", full.to_uppercase())).unwrap();
        assert_eq!(read.pin.as_deref(), Some(full.as_str()));
        assert_eq!(NamedWorker::read("w1").unwrap().pin, None);
        for bad in ["w1=", "w1=abcd", "w1=zz", &format!("w1={full}00")] {
            assert!(NamedWorker::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_trusted_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_workers");
        std::fs::write(&path, "w1\n").unwrap();
        let refused = KnownWorkers::load(&path).unwrap_err().to_string();
        assert!(refused.contains("line 1"), "{refused}");
    }
}
