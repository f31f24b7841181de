//! The book: every page is reachable, and the commands of the tutorials are run, in the order of the
//! book, in an empty home, as a new user would. What they print is compared with the page; words
//! with digits (times, digests, ports) may differ, and `...` stands for any lines. Where the output
//! begins with `^C`, the command is interrupted once it has written rows.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// A command of a page and what the page says that it prints.
#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

/// The `console` blocks of a page: commands after `$ `, continued after `> `, then output.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            let (command, expected) = (command.to_owned(), Vec::new());
            steps.push(Step {
                line: number + 1,
                command,
                expected,
            });
        } else if let Some(more) = line
            .strip_prefix("> ")
            .filter(|_| steps.last().is_some_and(|s| s.expected.is_empty()))
        {
            let step = steps.last_mut().unwrap();
            step.command.push('\n');
            step.command.push_str(more);
        } else {
            steps
                .last_mut()
                .expect("output before a command")
                .expected
                .push(line.to_owned());
        }
    }
    steps
}

/// Words of a line; those with digits are all the same.
fn words(line: &str) -> Vec<String> {
    let word = |word: &str| {
        if word.contains(|c: char| c.is_ascii_digit()) {
            "#".to_owned()
        } else {
            word.to_owned()
        }
    };
    line.split_whitespace().map(word).collect()
}

/// Whether lines are those of the page, where `...` matches any number of them.
fn matches(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=found.len()).any(|skip| matches(rest, &found[skip..]))
        }
        Some((first, rest)) => {
            found
                .first()
                .is_some_and(|line| words(first) == words(line))
                && matches(rest, &found[1..])
        }
    }
}

/// An empty home, and a working folder with the repository's data.
struct Newcomer {
    folder: tempfile::TempDir,
}

impl Newcomer {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new()
            .prefix("cxbook")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        std::os::unix::fs::symlink(repository().join("data"), folder.path().join("work/data"))
            .unwrap();
        Self { folder }
    }

    fn shell(&self, command: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_chemxor")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", command])
            .current_dir(self.folder.path().join("work"))
            .env_clear()
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", self.folder.path())
            .env(
                "CHEMXOR_HOME",
                self.folder.path().join(".local/share/chemxor"),
            )
            .stdin(Stdio::null());
        if let Some(bin) = std::env::var_os("PG_BIN") {
            shell.env("PG_BIN", bin);
        }
        shell
    }

    /// Runs a command to its end; gives both streams in the order in which a terminal shows them.
    fn run(&self, command: &str) -> Output {
        self.shell(&format!("exec 2>&1; {command}"))
            .output()
            .unwrap()
    }

    /// Runs a command until it has written some rows, then presses Ctrl-C.
    fn interrupt(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        words.find(|word| *word == "--output").unwrap();
        let partial = format!("work/{}.partial", words.next().unwrap());
        let partial = self.folder.path().join(partial);
        // the shell becomes the command, so that the signal reaches it
        let mut running = self.shell(&format!("exec 2>&1; exec {command}"));
        let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while std::fs::metadata(&partial).map_or(0, |file| file.len()) < 1000 {
            assert_eq!(running.try_wait().unwrap(), None, "{command} ended early");
            assert!(begun.elapsed().as_secs() < 60, "{command} writes no rows");
            std::thread::yield_now();
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(running.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        running.wait_with_output().unwrap()
    }

    /// Runs a page to its end; gives what was not as the page says.
    fn follow(&self, page: &str) -> Vec<String> {
        let text = std::fs::read_to_string(repository().join("docs").join(page)).unwrap();
        let steps = steps(&text);
        assert!(!steps.is_empty(), "{page} has no commands");
        let mut wrong = Vec::new();
        for Step {
            line,
            command,
            expected,
        } in steps
        {
            let (output, expected) = match expected.split_first() {
                Some((first, rest)) if first == "^C" => (self.interrupt(&command), rest),
                _ => (self.run(&command), &expected[..]),
            };
            let text = String::from_utf8(output.stdout).unwrap();
            let home = self.folder.path().display().to_string();
            let found: Vec<String> = text
                .replace(&home, "~")
                .lines()
                .map(str::to_owned)
                .collect();
            if !matches(expected, &found) {
                wrong.push(format!(
                    "{page}:{line}: `{command}` ({}) printed\n{}\nbut the page says\n{}",
                    output.status,
                    found.join("\n"),
                    expected.join("\n")
                ));
            }
        }
        wrong
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let _ = self.shell("chemxor stop").output();
    }
}

#[test]
fn the_commands_of_the_tutorials_do_what_the_pages_say() {
    let newcomer = Newcomer::new();
    let pages = [
        "tutorials/operator.md",
        "tutorials/publisher.md",
        "tutorials/admin.md",
        "tutorials/lab.md",
        "migration.md",
    ];
    let wrong: Vec<String> = pages
        .iter()
        .flat_map(|page| newcomer.follow(page))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn pages_are_compared_line_by_line() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let page = "```console\n$ a \\\n> b\n1.5 ms\n...\nend\n```\ntext\n```sh\n$ not run\n```\n";
    let steps = steps(page);
    assert_eq!((steps.len(), steps[0].command.as_str()), (1, "a \\\nb"));
    assert!(matches(&steps[0].expected, &lines("27 ms\nx\ny\nend")));
    assert!(matches(&steps[0].expected, &lines("27 ms\nend")));
    assert!(!matches(&steps[0].expected, &lines("27 s\nend")));
    assert!(!matches(&steps[0].expected, &lines("27 ms\nend\nmore")));
}

/// Every page under docs/ stands in the table of contents, and every link of the book leads somewhere.
#[test]
fn every_page_is_in_the_contents_and_every_link_leads_somewhere() {
    let docs = repository().join("docs");
    let contents = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut pages = Vec::new();
    let mut folders = vec![docs.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 20);
    for page in &pages {
        let name = page.strip_prefix(&docs).unwrap().display().to_string();
        assert!(
            name == "SUMMARY.md" || contents.contains(&format!("({name})")),
            "SUMMARY.md lacks {name}"
        );
        let text = std::fs::read_to_string(page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                page.parent().unwrap().join(target).exists(),
                "{name} links to {link}, which is not there"
            );
        }
    }
}
