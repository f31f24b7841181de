//! Clocks that are wrong, as certificates show them; `./bench/run clocks` lets the clocks of running
//! processes jump.

use chemxor_runtime::pki::{DevAuthority, Subject};
use time::{Duration, OffsetDateTime};

use crate::platform::Platform;

#[test]
fn a_certificate_outside_its_time_is_refused_with_a_word_on_clocks() {
    let platform = Platform::start(0);
    let local = platform.path("local");
    platform.json(&["catalog"]);
    let authority = DevAuthority::create_or_load(&local).unwrap();
    let lab = Subject::Client("lab".parse().unwrap());
    let now = OffsetDateTime::now_utc();
    // as after a jump of either side: ended long ago, and not begun
    for (begin, doctor_says) in [
        (now - Duration::days(400), "has ended"),
        (now + Duration::days(400), "is valid from"),
    ] {
        let issued = authority.issue_from(&lab, begin, Duration::days(1));
        issued.unwrap().write(&local, "client").unwrap();
        // the alert, or the closed connection when that is seen first
        let said = platform.refusal(&["catalog"]);
        for part in ["certificate", "clock", "chemxor doctor"] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
        let doctor = platform.run(&["doctor"]);
        let found = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            !doctor.status.success() && found.contains(doctor_says),
            "{found}"
        );
    }
}
