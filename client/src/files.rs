//! Files that appear complete or not at all. Those with secrets are written with owner-only
//! permissions and refused when others may read them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::ClientError;

fn refuse(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// What the system said, and what to do when there is no room.
pub(crate) fn said(error: &std::io::Error, next: &str) -> String {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("{error}; free space on its disk, then {next}")
        }
        ErrorKind::FileTooLarge => {
            format!("{error}; raise the limit (`ulimit -f`) or take another disk, then {next}")
        }
        _ => error.to_string(),
    }
}

fn refuse_write(path: &Path, error: &std::io::Error) -> ClientError {
    refuse(path, said(error, "run the command again"))
}

/// Writes a file in place of an older one, complete or not at all: when the disk is full the older
/// one stays as it was. What is no plain file (`/dev/stdout`) is written to.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let found = std::fs::metadata(path);
    if found.is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, bytes).map_err(|error| refuse_write(path, &error));
    }
    // a link goes on to point to the file
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut new = target.as_os_str().to_owned();
    new.push(".new");
    let written = std::fs::File::create(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, &target));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        refuse_write(path, &error)
    })
}

/// Writes a new file that only its owner may read; never overwrites one.
pub fn create_secret(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(|error| refuse_write(folder, &error))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                refuse(path, "already exists; choose another name or move it away")
            }
            _ => refuse_write(path, &error),
        })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| {
            // half a key is none, and would be in the way of the next attempt
            let _ = std::fs::remove_file(path);
            refuse_write(path, &error)
        })
}

/// Writes a file that only its owner may read, in place of an older one: complete or not at all.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), ClientError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(refuse(new, error));
        }
        _ => {}
    }
    create_secret(new, bytes)?;
    std::fs::rename(new, path).map_err(|error| refuse_write(path, &error))
}

/// Reads a secret file of at most `limit` bytes, after checking that only its owner may read it.
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let mut file = std::fs::File::open(path).map_err(|error| refuse(path, error))?;
    let metadata = file.metadata().map_err(|error| refuse(path, error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(refuse(path, "is readable by others; run `chmod 600` on it"));
    }
    if metadata.len() > limit {
        return Err(refuse(
            path,
            format!("is larger than {limit} bytes, so it is no key"),
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize));
    file.read_to_end(&mut bytes)
        .map_err(|error| refuse(path, error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/key");
        create_secret(&path, b"x").unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(
            create_secret(&path, b"y")
                .unwrap_err()
                .to_string()
                .contains("already exists")
        );
        assert_eq!(read_secret(&path, 10).unwrap().as_slice(), b"x");
        assert!(read_secret(&path, 0).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            read_secret(&path, 10)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
    }
}
