//! A batch while a disk is full or a clock jumps; every row is compared with an undisturbed run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chemxor_runtime::postgres::Durability;

use crate::faults::{TOLERANCE, library, lines_of, read};
use crate::platform::{Platform, wait_until};

/// Runs a program of the system, which must succeed.
fn system(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// A small file system of its own; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, size: &str) -> Self {
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "a small file system is mounted: run this as root"
        );
        std::fs::create_dir_all(path).unwrap();
        let place = path.display().to_string();
        let size = format!("size={size},mode=0700");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &place]);
        Self(path.to_owned())
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        for piece in [1 << 20, 4096, 1] {
            let zeros = vec![0; piece];
            while ballast.write_all(&zeros).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// One batch with its input and what an undisturbed run says.
struct Batch {
    input: String,
    rows: usize,
    expected: Vec<f64>,
}

impl Batch {
    fn new(platform: &Platform, rows: usize) -> Self {
        let mut batch = Self {
            input: library(platform, rows),
            rows,
            expected: Vec::new(),
        };
        let output = platform.path("whole.csv");
        let ended = batch.command(platform, &output, false).status();
        assert!(ended.unwrap().success());
        batch.expected = read(&output, rows);
        batch
    }

    fn command(&self, platform: &Platform, output: &Path, resume: bool) -> Command {
        let output = output.display().to_string();
        let mut command = platform.command(&[
            "query",
            "esol",
            "--yes",
            "--quiet",
            "--input",
            &self.input,
            "--output",
        ]);
        command.arg(output).stdout(Stdio::null());
        if resume {
            command.arg("--resume");
        }
        command
    }

    fn wrong(&self, output: &Path) -> usize {
        let values = read(output, self.rows);
        let pairs = values.iter().zip(&self.expected);
        pairs.filter(|(a, b)| (*a - *b).abs() > TOLERANCE).count()
    }
}

/// The id in an error message, or its beginning.
fn id_in(said: &str) -> String {
    match said.find("CX-") {
        Some(at) => said[at..].chars().take(6).collect(),
        None if said.contains("outside its time") => "certificate outside its time".to_owned(),
        None if said.contains("broken pipe") => "connection closed".to_owned(),
        None => said.replace([',', '\n'], " ").chars().take(80).collect(),
    }
}

/// Full disks: the client's and PostgreSQL's.
pub(crate) fn disk(quick: bool) {
    let rows = if quick { 2000 } else { 5000 };
    println!("disk,rows,wrong,attempts,said,seconds");
    let mut disks = Vec::new();
    let platform = Platform::start(2);
    platform.publish("esol", true);
    let batch = Batch::new(&platform, rows);

    let begun = Instant::now();
    let small = Disk::mount(&platform.path("small"), "64k");
    let output = small.0.join("out.csv");
    let ended = batch.command(&platform, &output, false).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("out.csv.partial") && said.contains("free space"),
        "{said}"
    );
    assert!(said.contains("--resume") && !output.exists(), "{said}");
    system(
        "mount",
        &["-o", "remount,size=64m", &small.0.display().to_string()],
    );
    let ended = batch.command(&platform, &output, true).status().unwrap();
    assert!(ended.success());
    let (wrong, seconds) = (batch.wrong(&output), begun.elapsed().as_secs_f64());
    println!("client,{rows},{wrong},2,no space left,{seconds:.2}");
    assert_eq!(wrong, 0);
    drop(small);

    // PostgreSQL moves to a small disk
    platform.cluster.stop().unwrap();
    let folder = platform.cluster.folder().to_owned();
    let moved = folder.with_extension("old");
    std::fs::rename(&folder, &moved).unwrap();
    disks.push(Disk::mount(&folder, "256m"));
    let from = format!("{}/.", moved.display());
    system("cp", &["-a", &from, &folder.display().to_string()]);
    platform.cluster.start_again(Durability::None).unwrap();
    platform.json(&["catalog"]);

    let begun = Instant::now();
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let mut running = batch.command(&platform, &output, false).spawn().unwrap();
    wait_until("the first rows", || {
        (lines_of(&partial) > rows / 10).then_some(())
    });
    disks[0].fill();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let bundle = platform.path("more.cxb").display().to_string();
    let train = ["train", "--input", data, "--name", "more", "--epochs", "2"];
    platform.json(&[&train[..], &["--output", &bundle]].concat());
    let refused = platform.refusal(&["publish", &bundle]);
    eprintln!("publish on a full disk: {refused}");
    let id = id_in(&refused);
    assert!(id.starts_with("CX-"), "{refused}");
    disks[0].free();
    let mut said = id;
    // on a full write-ahead log PostgreSQL ends itself, and its supervisor starts it again
    if !platform.run(&["catalog"]).status.success()
        && platform.cluster.start_again(Durability::None).is_ok()
    {
        said.push_str("; PostgreSQL started again");
    }
    let mut attempts = 1;
    let mut ended = running.wait().unwrap();
    while !ended.success() {
        attempts += 1;
        assert!(attempts <= 5, "the batch was lost");
        ended = batch.command(&platform, &output, true).status().unwrap();
    }
    let wrong = batch.wrong(&output);
    // the registry is the process that it was
    platform.json(&["publish", &bundle]);
    let seconds = begun.elapsed().as_secs_f64();
    println!("postgres,{rows},{wrong},{attempts},{said},{seconds:.2}");
    assert_eq!(wrong, 0);
    platform.cluster.stop().unwrap();
    disks.clear();
}

fn faketime() -> String {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = libraries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.find(|path| path.exists());
    found
        .expect("apt-get install faketime")
        .display()
        .to_string()
}

/// Wall clocks that jump in a running process; monotonic ones go on.
pub(crate) fn clocks(quick: bool) {
    let rows = if quick { 1000 } else { 5000 };
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let batch = Batch::new(&platform, rows);
    let library = faketime();
    let set = |path: &Path, offset: &str| {
        let new = path.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(&new, path).unwrap();
    };
    let victims = ["client", "registry", "gateway", "worker"];
    let files = victims.map(|name| platform.path(&format!("{name}.clock")));
    let environment = |path: &Path| {
        vec![
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", path.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    };
    for path in &files {
        set(path, "+0");
    }
    platform.environment = environment(&files[1]);
    platform.kill_registry();
    platform.start_registry();
    platform.environment = environment(&files[2]);
    platform.gateway.take().unwrap().kill();
    platform.start_gateway();
    platform.environment = environment(&files[3]);
    for number in 0..2 {
        platform.workers[number].take().unwrap().kill();
        platform.start_worker(number);
    }
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    println!("victim,jump_seconds,rows,wrong,attempts,said,seconds");
    for (victim, path) in victims.iter().zip(&files) {
        for jump in ["+3600", "-3600", "+34560000", "-34560000"] {
            let begun = Instant::now();
            let _ = std::fs::remove_file(&output);
            let (mut attempts, mut said) = (0, "nothing".to_owned());
            loop {
                attempts += 1;
                assert!(
                    attempts <= 20,
                    "{victim} {jump}: the batch was lost: {said}"
                );
                let mut command = batch.command(&platform, &output, partial.exists());
                command.envs(environment(&files[0])).stderr(Stdio::piped());
                let mut running = command.spawn().unwrap();
                if attempts == 1 {
                    wait_until("the first rows", || {
                        let over = running.try_wait().unwrap().is_some();
                        (over || lines_of(&partial) > rows / 10).then_some(())
                    });
                    set(path, jump);
                }
                let ended = running.wait_with_output().unwrap();
                if ended.status.success() {
                    break;
                }
                assert!(
                    ended.status.code().is_some(),
                    "a signal: {:?}",
                    ended.status
                );
                let text = String::from_utf8_lossy(&ended.stderr).into_owned();
                eprintln!("{victim} {jump}: {text}");
                if attempts == 1 {
                    said = id_in(&text);
                }
                // the clock is right again
                set(path, "+0");
                std::thread::sleep(Duration::from_millis(500));
            }
            // whoever comes now meets the wrong clock
            let fresh = |arguments: &[&str]| {
                let mut command = platform.command(arguments);
                command.envs(environment(&files[0])).output().unwrap()
            };
            set(path, jump);
            let new = fresh(&["query", "esol", "--smiles", "CCO"]);
            let text = String::from_utf8_lossy(&new.stderr).into_owned();
            assert!(new.status.code().is_some(), "{:?}", new.status);
            let new = if new.status.success() {
                "answered".to_owned()
            } else {
                id_in(&text)
            };
            eprintln!("{victim} {jump}: a new session: {new} {text}");
            set(path, "+0");
            wait_until("answers again", || {
                let answer = fresh(&["query", "esol", "--smiles", "CCO"]);
                answer.status.success().then_some(())
            });
            let wrong = batch.wrong(&output);
            let seconds = begun.elapsed().as_secs_f64();
            println!(
                "{victim},{jump},{rows},{wrong},{attempts},batch: {said}; new session: {new},{seconds:.2}"
            );
            assert_eq!(wrong, 0);
            assert!(platform.alive(), "a process died: {victim} {jump}");
        }
    }
}
