//! Apps in TypeScript and JavaScript: an example at work, and walls that hold for an engine of another language, too.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use crate::http::ask;
use crate::stage::{GUARD, MARKDOWN, PROBE, Stage};
use crate::support::{can_mount, wait_until};

#[test]
fn each_note_has_a_page() {
    if !can_mount() {
        return;
    }
    let http = ["-o", "http=127.0.0.1:0"];
    let mut stage = Stage::with(&http);
    let (notes, pages) = (stage.path("notes"), stage.path("pages"));
    fs::create_dir_all(notes.join("garden")).expect("made");
    fs::create_dir(&pages).expect("made");
    // These were there before the app: more than a list of entries has at once.
    fs::write(notes.join("garden/apples.md"), "# Apple *trees*\n\nSee [cake](../cake.md).\n")
        .expect("written");
    for number in 0..120 {
        fs::write(notes.join(format!("{number}.md")), "x").expect("written");
    }
    fs::write(notes.join("other.txt"), "# Other").expect("written");
    let package = stage.package("markdown", MARKDOWN, "author");
    let grants = ["--grant", "notes=/notes", "--grant", "pages=/pages", "--grant", "http"];
    stage.install(&package, &grants).ok();
    let get = |path: &str| ask(stage.address("markdown"), &format!("GET /markdown/{path}"), "");
    let (status, head, list) = get("");
    assert!(status == 200 && head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(list.contains("<a href=\"garden/apples.html\">Apple *trees*</a>"), "{list}");
    assert_eq!(list.matches("<li>").count(), 121, "{list}");
    let (status, _, page) = get("garden/apples.html");
    assert!(status == 200 && page.contains("<h1>Apple <em>trees</em></h1>"), "{page}");
    assert!(page.contains("<a href=\"../cake.html\">cake</a>"), "{page}");

    // What a note may not do in its page.
    let hostile = "Größe 🎂 <script>alert(1)</script> [x](javascript:alert) ![x](data:x) \
                   [y](javascript&colon;alert)";
    fs::write(notes.join("cake.md"), hostile).expect("written");
    let read = |path: &str| fs::read_to_string(pages.join(path)).unwrap_or_default();
    wait_until("the note has a page", || read("cake.html").contains("Größe 🎂"));
    let page = read("cake.html");
    assert!(page.contains("&lt;script&gt;") && page.contains("<title>cake</title>"), "{page}");
    assert!(
        !page.contains("<script") && !page.contains("\"javascript:") && !page.contains("\"data:"),
        "{page}"
    );
    assert!(page.contains("javascript&amp;colon;alert"), "{page}");

    // What changes, moves and goes.
    fs::write(notes.join("cake.md"), "plum").expect("written");
    wait_until("the page changes", || read("cake.html").contains("plum"));
    fs::rename(notes.join("garden"), notes.join("yard")).expect("renamed");
    wait_until("the page moves", || read("yard/apples.html").contains("Apple"));
    wait_until("none is left behind", || read("garden/apples.html").is_empty());
    fs::remove_file(notes.join("cake.md")).expect("removed");
    wait_until("the page goes", || !pages.join("cake.html").exists());
    for nothing in ["cake.html", "../notes/0.md", "%2e%2e/notes/0.md", "%ff"] {
        assert_ne!(get(nothing).0, 200, "{nothing}");
    }
    assert_eq!(get("cake.html").0, 404);

    // The code that was compiled and the titles are kept.
    stage.app("disable", &["markdown"]).ok();
    fs::write(notes.join("late.md"), "# Late").expect("written");
    stage.remount_with(&http);
    stage.app("enable", &["markdown"]).ok();
    let list = || ask(stage.address("markdown"), "GET /markdown/", "").2;
    wait_until("the list has what came meanwhile", || list().contains(">Late<"));
    assert!(list().contains("yard/apples.html"));
    stage.umount();
}

/// A component of plain JavaScript for this world.
fn component(stage: &Stage, script: &str, world: &str) -> Vec<u8> {
    // The example was built with the same tools.
    stage.package("markdown", MARKDOWN, "author");
    let (source, component) = (stage.place.path("script.js"), stage.place.path("script.wasm"));
    fs::write(&source, script).expect("written");
    xtask::guests::typescript::componentize(&source, world, &component).expect("a component");
    fs::read(&component).expect("read")
}

/// Plain JavaScript that does what the names of files say.
const UNRULY: &str = r#"
import * as log from "blocktree:app/log@0.1.0";
import * as files from "blocktree:app/files@0.1.0";

const does = {
    loop() { for (;;); },
    bomb() { const all = []; for (;;) all.push(new Uint8Array(1 << 20)); },
    grow() { let text = "x"; for (;;) text += text; },
    recurse() { const again = (depth) => 1 + again(depth + 1); again(0); },
    fail() { throw new Error("as I was told"); },
    escape() { files.open("box", "../secret"); },
    // A mistake that the engine itself does not survive.
    panic() { files.open("box", "panic").read(0n, 1); },
    well() {
        const age = Date.now() - 1.7e12;
        log.write("info", `well ${age > 0} ${Math.random() !== Math.random()}`);
    },
};

export const events = {
    handle(event) { if (event.tag === "written") does[event.val.path](); },
};
"#;

#[test]
fn javascript_that_runs_away_is_stopped_and_the_next_event_is_handled() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    fs::write(stage.path("secret"), "secret").expect("written");
    let code = component(&stage, UNRULY, "reactor");
    let project = PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw");
    let package = stage.package_of(&code, "probe", &project, "author");
    stage.install(&package, &["--grant", "box=/box"]).ok();
    for (name, says) in [
        ("loop", "it took too long"),
        ("bomb", ""),
        ("grow", ""),
        ("recurse", ""),
        ("fail", "as I was told"),
        ("escape", "malformed"),
        ("panic", "it trapped"),
    ] {
        fs::write(stage.path("box").join(name), name).expect("written");
        stage.wait_for_log("probe", &format!("given up: written box/{name}: {says}"));
    }
    // What an engine prints.
    stage.wait_for_log("probe", "warn: expected number");
    fs::write(stage.path("box/well"), "well").expect("written");
    stage.wait_for_log("probe", "info: well true true");
    stage.umount();
}

/// Plain JavaScript for an app that may refuse.
const GUARDING: &str = r#"
import * as log from "blocktree:app/log@0.1.0";

export const policy = {
    judge(operation) {
        const { tag, val } = operation;
        const to = tag === "rename" ? val.to : val;
        const from = tag === "rename" ? ` from ${val.oldPath}` : "";
        log.write("info", `asked ${tag} ${to.grant}/${to.path} ${to.kind} ${to.permissions.toString(8)}${from}`);
        if (to.path === "fail") throw new Error("as I was told");
        return to.path.endsWith(".exe") ? "refuse" : "allow";
    },
};
"#;

#[test]
fn javascript_refuses_what_others_do() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    fs::create_dir(stage.path("safe")).expect("made");
    let code = component(&stage, GUARDING, "guard");
    let package =
        stage.package_of(&code, "guard", &GUARD.replace("memory-mib = 16", "memory-mib = 64"), "author");
    stage.install(&package, &["--grant", "folder=/safe", "--grant", "policy"]).ok();
    let (plain, program) = (stage.path("safe/plain"), stage.path("safe/program.exe"));
    // Until it is compiled, nothing is let through.
    wait_until("it lets through what is harmless", || fs::write(&plain, "one").is_ok());
    let is_refused = |result: std::io::Result<()>| {
        result.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    assert!(is_refused(fs::write(&program, "one")) && is_refused(fs::rename(&plain, &program)));
    assert!(plain.exists() && !program.exists());
    // Who fails has not said that it may be.
    assert!(is_refused(fs::write(stage.path("safe/fail"), "one")));
    wait_until("it goes on", || fs::write(&plain, "two").is_ok());
    let log = stage.logs("guard");
    for said in [
        "asked create folder/plain file 644",
        "asked create folder/program.exe file 644",
        "asked rename folder/program.exe file 644 from plain",
        "asked modify folder/plain file 644",
    ] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
    stage.umount();
}

/// Plain JavaScript that takes locks and opens connections.
const BUSY: &str = r#"
import * as log from "blocktree:app/log@0.1.0";
import * as files from "blocktree:app/files@0.1.0";
import * as locks from "blocktree:app/locks@0.1.0";
import * as sockets from "blocktree:app/sockets@0.1.0";

const say = (text) => log.write("info", text);
const bytes = Uint8Array.from("bytes", (letter) => letter.charCodeAt(0));
const attempt = (what) => { try { what(); return "done"; } catch (error) { return error.message; } };

const does = {
    lock() {
        const lock = locks.take("box", "l");
        say(`again ${attempt(() => locks.take("box", "l"))}`);
        const file = files.create("box", "kept");
        file.fence("box", "l", lock.token());
        file.write(0, bytes);
        file.finish();
        file[Symbol.dispose]();
        const late = files.create("box", "late");
        late.fence("box", "l", lock.token());
        lock[Symbol.dispose]();
        say(`late ${attempt(() => late.write(0, bytes))}`);
        late[Symbol.dispose]();
        const next = locks.take("box", "l");
        say("free again");
        next[Symbol.dispose]();
    },
    talk() {
        say(`elsewhere ${attempt(() => sockets.connect("127.0.0.1", 1))}`);
        const connection = sockets.connect("127.0.0.1", PORT);
        say(`sent ${connection.write(bytes, 5000)}`);
        connection.shutDown();
        say(`came ${String.fromCharCode(...connection.read(5000))}`);
        say(`end ${connection.read(5000).length}`);
        connection[Symbol.dispose]();
    },
};

export const events = {
    handle(event) { if (event.tag === "written") does[event.val.path](); },
};
"#;

#[test]
fn javascript_takes_locks_and_opens_connections() {
    if !can_mount() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let mut stage = Stage::new();
    fs::create_dir(stage.path("box")).expect("made");
    let code = component(&stage, &BUSY.replace("PORT", &port.to_string()), "reactor");
    let project =
        PROBE.replace("VERSION", "1.0.0").replace("RIGHTS", "rw").replace("seconds = 1", "seconds = 60")
            + &format!("[[sockets]]\naddress = \"127.0.0.1:{port}\"\nreason = \"to talk\"\n");
    let package = stage.package_of(&code, "probe", &project, "author");
    let grants = ["--grant", "box=/box", "--grant", &format!("socket:127.0.0.1:{port}")];
    stage.install(&package, &grants).ok();

    fs::write(stage.path("box/lock"), "now").expect("written");
    let is_over = |log: &str| log.contains("info: free again") || log.contains("given up");
    wait_until("it has taken its locks", || is_over(&stage.logs("probe")));
    let log = stage.logs("probe");
    assert!(log.contains("info: again locked") && log.contains("info: late locked"), "{log}");
    assert_eq!(fs::read(stage.path("box/kept")).expect("there"), b"bytes");
    assert!(!stage.path("box/late").exists());

    fs::write(stage.path("box/talk"), "now").expect("written");
    let mut stream = listener.accept().expect("it connects").0;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("heard");
    stream.write_all(&heard).expect("answered");
    drop(stream);
    stage.wait_for_log("probe", "info: end 0");
    let log = stage.logs("probe");
    for said in ["info: elsewhere not-granted", "info: sent 5", "info: came bytes"] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
    stage.umount();
}
