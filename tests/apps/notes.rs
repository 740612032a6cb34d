//! The example app `notes-search`.

use std::fs;

use crate::http::ask;
use crate::stage::{NOTES, Stage};
use crate::support::{can_mount, wait_until};

/// The paths of what is found.
fn found(stage: &Stage, asked: &str) -> Vec<String> {
    let (status, _, body) =
        ask(stage.address("notes-search"), &format!("GET /notes-search/search.json?q={asked}"), "");
    assert_eq!(status, 200, "{body}");
    let notes: Vec<serde_json::Value> = serde_json::from_str(&body).expect("JSON");
    notes.iter().map(|note| note["path"].as_str().expect("a path").to_owned()).collect()
}

#[track_caller]
fn wait_for(stage: &Stage, asked: &str, expected: &[&str]) {
    wait_until(&format!("{asked} finds {expected:?}"), || found(stage, asked) == expected);
}

#[test]
fn notes_are_found_by_their_words() {
    if !can_mount() {
        return;
    }
    let http = ["-o", "http=127.0.0.1:0"];
    let mut stage = Stage::with(&http);
    let notes = stage.path("notes");
    fs::create_dir_all(notes.join("garden")).expect("made");
    // These were there before the app.
    fs::write(notes.join("garden/apples.md"), "# Apple trees\nWater them in June.\n").expect("written");
    fs::write(notes.join("other.txt"), "apple").expect("written");
    let package = stage.package("notes-search", NOTES, "author");
    stage.install(&package, &["--grant", "notes=/notes", "--grant", "http"]).ok();
    assert_eq!(found(&stage, "apple"), ["garden/apples.md"]);

    fs::write(notes.join("cake.md"), "Apple, flour and SUGAR. Apple! <script>alert(1)</script>")
        .expect("written");
    wait_for(&stage, "sugar", &["cake.md"]);
    assert_eq!(found(&stage, "apple+june"), ["garden/apples.md"], "all words");
    assert_eq!(found(&stage, "APP"), ["garden/apples.md", "cake.md"], "a beginning; the best first");
    assert_eq!(found(&stage, ""), Vec::<String>::new());
    let (status, head, page) = ask(stage.address("notes-search"), "GET /notes-search/?q=%22sugar", "");
    assert!(status == 200 && head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(page.contains("Apple, flour and SUGAR") && page.contains("value=\"&quot;sugar\""), "{page}");
    assert!(!page.contains("<script"), "{page}");

    // What changes, moves and goes.
    fs::write(notes.join("cake.md"), "plum").expect("written");
    wait_for(&stage, "sugar", &[]);
    fs::rename(notes.join("garden"), notes.join("yard")).expect("renamed");
    wait_for(&stage, "june", &["yard/apples.md"]);
    fs::rename(notes.join("yard"), stage.path("yard")).expect("renamed");
    wait_for(&stage, "june", &[]);
    fs::remove_file(notes.join("cake.md")).expect("removed");
    wait_for(&stage, "plum", &[]);
    fs::rename(stage.path("yard"), notes.join("yard")).expect("renamed");
    wait_for(&stage, "june", &["yard/apples.md"]);

    // The index is kept, and goes on with what came meanwhile.
    stage.app("disable", &["notes-search"]).ok();
    fs::write(notes.join("late.md"), "late june").expect("written");
    stage.remount_with(&http);
    stage.app("enable", &["notes-search"]).ok();
    wait_for(&stage, "late", &["late.md"]);
    assert_eq!(found(&stage, "water"), ["yard/apples.md"]);
    stage.umount();
}
