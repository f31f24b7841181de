use super::*;

fn ring() -> (tempfile::TempDir, Keyring) {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::open(&folder.path().join("keys"))
        .unwrap()
        .with_work_factor(8);
    (folder, ring)
}

fn phrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
}

#[test]
fn a_passphrase_protects_the_key() {
    let (folder, ring) = ring();
    let right = phrase("correct horse");
    let made = ring.create_query_key("lab", Some(&right), 0).unwrap();
    let path = ring.path("lab").unwrap();
    let stored = std::fs::read(&path).unwrap();
    assert!(protect::is_protected(&stored) && made.encrypted);
    let key = ring.query_key("lab", Some(&right)).unwrap().to_bytes();
    assert!(!stored.windows(32).any(|window| window == &key[64..96]));
    let wrong = ring
        .query_key("lab", Some(&phrase("battery")))
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("does not open"), "{wrong}");
    let none = ring.query_key("lab", None).unwrap_err().to_string();
    assert!(none.contains("CHEMXOR_PASSPHRASE"), "{none}");
    assert!(
        ring.rotate("lab", Some(&phrase("battery"))).is_err(),
        "never locked with another passphrase"
    );

    let copy = folder.path().join("copy.age");
    ring.export("lab", Some(&right), &phrase("travel"), &copy)
        .unwrap();
    assert!(
        ring.export("lab", Some(&right), &phrase("travel"), &copy)
            .is_err(),
        "nothing is overwritten"
    );
    let imported = ring.import("other", &copy, &phrase("travel")).unwrap();
    assert_eq!(imported.id, made.id);
    assert_eq!(
        ring.query_key("other", Some(&phrase("travel")))
            .unwrap()
            .to_bytes(),
        key
    );

    let open = ring.set_passphrase("lab", Some(&right), None).unwrap();
    assert!(!open.encrypted && ring.query_key("lab", None).is_ok());
    assert!(!format!("{right:?} {ring:?}").contains("horse"));
}

#[test]
fn keys_are_listed_rotated_and_deleted() {
    let (_folder, ring) = ring();
    ring.create_query_key("lab", None, 5).unwrap();
    ring.create_signing_key("publisher", None).unwrap();
    let listed = ring.list().unwrap();
    let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["lab", "publisher"]);
    assert_eq!(
        (listed[0].1.kind, listed[1].1.kind),
        (KeyKind::Query, KeyKind::Signing)
    );
    let old = ring.query_key("lab", None).unwrap().to_bytes();
    let (info, fresh) = ring.rotate("lab", None).unwrap();
    assert_eq!((info.rotations, info.rotate_after), (1, 5));
    assert_ne!(old, fresh.to_bytes());
    assert_ne!(info.id, listed[0].1.id);
    let said = ring.rotate("publisher", None).unwrap_err().to_string();
    assert!(said.contains("signing key"), "{said}");
    assert!(
        ring.create_query_key("lab", None, 0).is_err(),
        "a key is never overwritten"
    );
    let path = ring.path("lab").unwrap();
    ring.delete("lab").unwrap();
    assert!(!path.exists() && ring.info("lab").is_err());
    for name in ["", "../x", ".lock", "a/b", "a b"] {
        assert!(ring.path(name).is_err(), "{name}");
    }
}

#[test]
fn a_used_up_key_is_replaced_and_queries_are_counted() {
    let (_folder, ring) = ring();
    let made = ring.create_query_key("lab", None, 3).unwrap();
    let managed = Keys::from(ManagedKey::open(ring.clone(), "lab", None).unwrap());
    let generations: Vec<u64> = (0..7).map(|_| managed.take().unwrap().1).collect();
    assert_eq!(generations, [0, 0, 0, 1, 1, 1, 2]);
    drop(managed);
    let info = ring.info("lab").unwrap();
    assert_eq!((info.queries, info.rotations), (1, 2));
    assert_ne!(info.id, made.id);
    // what a crash leaves counts too many, never too few
    let crashed = Keys::from(ManagedKey::open(ring.clone(), "lab", None).unwrap());
    crashed.take().unwrap();
    std::mem::forget(crashed);
    assert!(ring.info("lab").unwrap().queries >= 2);
}

#[test]
fn only_the_owner_may_read() {
    let (_folder, ring) = ring();
    ring.create_query_key("lab", None, 0).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ring.folder), 0o700);
    let path = ring.path("lab").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&ring.info_path("lab")), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let said = ring.query_key("lab", None).unwrap_err().to_string();
    assert!(said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&ring.folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    Keyring::open(&ring.folder).unwrap();
    assert_eq!(mode(&ring.folder), 0o700);
}

#[test]
fn a_key_of_an_older_release_has_no_description_and_still_works() {
    let (_folder, ring) = ring();
    ring.create_query_key("lab", None, 7).unwrap();
    std::fs::remove_file(ring.info_path("lab")).unwrap();
    let info = ring.info("lab").unwrap();
    assert_eq!(
        (info.kind, info.rotate_after),
        (KeyKind::Query, ROTATE_AFTER)
    );
    let keys = Keys::from(ManagedKey::open(ring.clone(), "lab", None).unwrap());
    keys.take().unwrap();
    drop(keys);
    assert_eq!(ring.info("lab").unwrap().queries, 1);
}

#[test]
fn signing_keys_round_trip() {
    let (_folder, ring) = ring();
    ring.create_signing_key("publisher", None).unwrap();
    let once = ring.signing_key("publisher", None).unwrap().to_bytes();
    assert_eq!(
        ring.signing_key("publisher", None).unwrap().to_bytes(),
        once
    );
}
