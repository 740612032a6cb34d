//! `blocktree app`: what an owner does with apps, and, in `author`, what their authors do.

mod author;

use std::fs::{self, File};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use blocktree_sandbox::limits::PACKAGE_BYTES_MAX;
use blocktree_sandbox::node::{
    Answer, Apps, Call, Choice, Details, Grant, Host, Otherwise, Power, is_public,
};
use blocktree_sandbox::package::{
    Connect, Endpoint, Manifest, Package, Recipient, Rights, Socket, Trigger, host_of,
};
use blocktree_vfs::{Fs, MountOptions, control};

use super::{find_mount, open_store, print};
use crate::calls;
use crate::capabilities::now;
use crate::cli::PassphraseSource;
use crate::failure::{Failure, Result};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Author(author::Command),
    /// Install an app, or a new version of it
    Install {
        /// A store, or where one is mounted
        #[arg(value_name = "STORE|MOUNTPOINT")]
        path: PathBuf,
        /// The package
        file: PathBuf,
        /// Which folder of the store a grant is, as in photos=/pictures or photos=/pictures:r; with `-` for none. `http`
        /// lets it answer HTTP requests, host:NAME send requests to a host, private-host:NAME to one of a network of
        /// your own, socket:HOST:PORT open connections to a port of a host, `policy` refuse what others do below its
        /// grants; policy-fail-open also lets pass what it does not answer. `receive` lets it take messages of other apps,
        /// send:NAME send them to one. May be repeated
        #[arg(long = "grant", value_name = "GRANT", value_parser = parse_given)]
        grants: Vec<Given>,
        /// The grants end after so many days
        #[arg(long, value_name = "DAYS")]
        expires_days: Option<u32>,
        /// Let a new version have more than the one that is there
        #[arg(long)]
        approve: bool,
        /// Also install an older version than the one that is there
        #[arg(long)]
        allow_older: bool,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// List the apps of a store
    List {
        #[arg(value_name = "STORE|MOUNTPOINT")]
        path: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Show an app: what it is, may do and did
    Show {
        #[command(flatten)]
        named: Named,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let an app have a folder, or something else that it asks for
    Grant {
        #[command(flatten)]
        named: Named,
        /// As in photos=/pictures, photos=/pictures:r, http, host:example.org, private-host:nas:8080,
        /// socket:10.0.0.2:22, policy, policy-fail-open, receive or send:thumbnails
        #[arg(value_parser = parse_given)]
        grant: Given,
        /// It ends after so many days
        #[arg(long, value_name = "DAYS")]
        expires_days: Option<u32>,
    },
    /// Take a folder, or something else that was granted, away from an app, at once
    Revoke {
        #[command(flatten)]
        named: Named,
        /// The grant's name; or as it was granted: http, host:example.org, socket:10.0.0.2:22, policy, receive,
        /// send:thumbnails
        grant: String,
    },
    /// Let an app run
    Enable(Named),
    /// Stop an app, until it is enabled again
    Disable(Named),
    /// Remove an app and all that it kept; not what it made in folders
    Remove(Named),
    /// Show what an app wrote into its log
    Logs(Named),
    /// Show what an app did since the store was mounted
    Stats {
        #[command(flatten)]
        named: Named,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// A store, or where one is mounted
    #[arg(value_name = "STORE|MOUNTPOINT")]
    path: PathBuf,
    /// The app's name
    app: String,
    #[command(flatten)]
    passphrase: PassphraseSource,
}

impl Named {
    fn ask(&self, call: &Call) -> Result<Answer> {
        ask(&self.path, &self.passphrase, call, &[])
    }

    fn details(&self) -> Result<Details> {
        match self.ask(&Call::Show { name: self.app.clone() })? {
            Answer::App(details) => Ok(*details),
            _ => Err(senseless().into()),
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Author(command) => author::run(command)?,
        Command::Install { path, file, grants, expires_days, approve, allow_older, passphrase } => {
            let package = read_package(file)?;
            let verified = Package::verify(&package).with_context(|| format!("{}", file.display()))?;
            let mut choices: Vec<Choice> = grants.iter().filter_map(Given::folder).collect();
            let mut powers: Vec<Power> = grants.iter().filter_map(Given::power).collect();
            let mut denied = Vec::new();
            choices.iter_mut().for_each(|choice| choice.expires = expiry(*expires_days));
            if std::io::stdin().is_terminal() {
                choose(&verified.manifest, &mut choices, *expires_days)?;
                choose_powers(&verified.manifest, &mut powers, &mut denied)?;
            }
            let call = Call::Install {
                grants: choices,
                powers,
                denied,
                approves_more: *approve,
                accepts_older: *allow_older,
            };
            ask(path, passphrase, &call, &package)?;
        }
        Command::List { path, json, passphrase } => {
            let Answer::Apps(apps) = ask(path, passphrase, &Call::List, &[])? else {
                return Err(senseless().into());
            };
            print(&if *json {
                to_json(&apps)?
            } else {
                apps.iter()
                    .map(|app| {
                        let state = if app.is_enabled { "" } else { "  (disabled)" };
                        format!("{}  {}  {}{state}\n", app.name, app.version, app.summary)
                    })
                    .collect()
            })?;
        }
        Command::Show { named, json } => {
            let details = named.details()?;
            print(&if *json { to_json(&details)? } else { shown(&details) })?;
        }
        Command::Grant { named, grant, expires_days } => {
            let (name, expires) = (named.app.clone(), expiry(*expires_days));
            named.ask(&match grant.clone() {
                Given::Folder(choice) => Call::Grant { name, choice: Choice { expires, ..choice } },
                Given::Power(_) if expires.is_some() => {
                    return Err(Failure::usage("only what concerns a folder can end after so many days"));
                }
                Given::Power(power) => Call::Allow { name, power },
            })?;
        }
        Command::Revoke { named, grant } => {
            let name = named.app.clone();
            named.ask(&match parse_power(grant).map_err(Failure::usage)? {
                Some(power) => Call::Forbid { name, power },
                None => Call::Revoke { name, grant: grant.clone() },
            })?;
        }
        Command::Enable(named) => enable(named, true)?,
        Command::Disable(named) => enable(named, false)?,
        Command::Remove(named) => {
            named.ask(&Call::Remove { name: named.app.clone() })?;
        }
        Command::Logs(named) => match named.ask(&Call::Logs { name: named.app.clone() })? {
            Answer::Text(text) => print(&text)?,
            _ => return Err(senseless().into()),
        },
        Command::Stats { named, json } => {
            let stats = named.details()?.stats.unwrap_or_default();
            print(&if *json {
                to_json(&stats)?
            } else {
                format!(
                    "handled          {}\nserved           {}\njudged           {}\nrefused          {}\nunanswered       {}\n\
                     failed attempts  {}\ngiven up         {}\nrequests         {}\nprocess starts   {}\nbusy             {:.3} s\n",
                    stats.handled,
                    stats.served,
                    stats.judged,
                    stats.refused,
                    stats.unanswered,
                    stats.failed_attempts,
                    stats.given_up,
                    stats.requests,
                    stats.process_starts,
                    stats.busy_us as f64 / 1e6
                )
            })?;
        }
    }
    Ok(0)
}

fn enable(named: &Named, is_enabled: bool) -> Result<()> {
    named.ask(&Call::Enable { name: named.app.clone(), is_enabled }).map(drop)
}

/// Asks the daemon of a mounted store; does it here where the store is not mounted.
fn ask(path: &Path, passphrase: &PassphraseSource, call: &Call, package: &[u8]) -> Result<Answer> {
    let request = call.encode(package);
    let answer = match find_mount(path)? {
        Some(mount) => {
            let root = File::open(&mount.mountpoint)
                .with_context(|| format!("cannot open {}", mount.mountpoint.display()))?;
            calls::call(&root, control::Command::Call, &request)?
        }
        None => {
            let store = open_store(path, passphrase.source().as_ref(), false)?;
            let fs = Fs::mount(store.clone(), MountOptions::default()).context("cannot read the tree")?;
            let fs = Arc::new(fs);
            let answer = Apps::open(&fs, None).map(|apps| apps.call(&request));
            let closed = fs.unmount().map_err(anyhow::Error::from).and_then(|()| Ok(store.close()?));
            let answer = answer.context("cannot read which apps there are")?;
            closed.context("cannot close the store")?;
            answer
        }
    };
    let answer: std::result::Result<Answer, String> =
        serde_json::from_slice(&answer).map_err(|_| senseless())?;
    Ok(answer.map_err(|text| anyhow!("{text}"))?)
}

fn senseless() -> anyhow::Error {
    anyhow!("the daemon's answer makes no sense; is it another version?")
}

/// A package, as long as one may be.
fn read_package(file: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("cannot read {}", file.display());
    if fs::metadata(file).with_context(what)?.len() > PACKAGE_BYTES_MAX as u64 {
        bail!("{} is longer than {PACKAGE_BYTES_MAX} bytes", file.display());
    }
    fs::read(file).with_context(what)
}

/// Asks a person for what was not chosen yet.
fn choose(manifest: &Manifest, choices: &mut Vec<Choice>, expires_days: Option<u32>) -> Result<()> {
    for wanted in &manifest.grants {
        if choices.iter().any(|choice| choice.grant == wanted.name) {
            continue;
        }
        let mut error = std::io::stderr().lock();
        let _ = write!(
            error,
            "{} {} asks for a folder {:?} ({}): {}\nWhich folder of the store? (- for none, nothing for what it had) ",
            manifest.name, manifest.version, wanted.name, wanted.rights, wanted.reason
        );
        let _ = error.flush();
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
        if !line.trim().is_empty() {
            let choice = parse_choice(&format!("{}={}", wanted.name, line.trim())).map_err(Failure::usage)?;
            choices.push(Choice { expires: expiry(expires_days), ..choice });
        }
    }
    Ok(())
}

/// Asks a person whether the app may have what it asks for beside folders. Who says nothing leaves it at what the app had.
fn choose_powers(manifest: &Manifest, powers: &mut Vec<Power>, denied: &mut Vec<Power>) -> Result<()> {
    let mut asked: Vec<(Power, String)> = Vec::new();
    if let Some(serve) = &manifest.serve {
        asked.push((Power::Serve, format!("answer HTTP requests: {}", serve.reason)));
    }
    if let Some(policy) = &manifest.policy {
        let what = format!("refuse what others do below its grants: {}", policy.reason);
        asked.push((Power::Policy(Otherwise::Refuse), what));
    }
    if let Some(receive) = &manifest.receive {
        asked.push((Power::Receive, format!("take messages of other apps: {}", receive.reason)));
    }
    for Recipient { app, reason } in &manifest.send {
        asked.push((Power::Send(app.clone()), format!("send messages to {app}: {reason}")));
    }
    for Connect { host, reason } in &manifest.connect {
        let power = Power::Connect(Host { host: host.clone(), is_private: false });
        asked.push((power, format!("send requests to {host}: {reason}")));
    }
    for Socket { address, reason } in &manifest.sockets {
        asked.push((
            Power::Socket(address.clone()),
            format!("open connections to {}: {reason}", place(address)),
        ));
    }
    let is_said = |one: &Power| match one {
        Power::Serve | Power::Receive | Power::Send(_) | Power::Socket(_) => powers.contains(one),
        Power::Policy(_) => powers.iter().any(|power| matches!(power, Power::Policy(_))),
        Power::Connect(host) => {
            powers.iter().any(|power| matches!(power, Power::Connect(said) if said.host == host.host))
        }
    };
    asked.retain(|(power, _)| !is_said(power));
    for (power, what) in asked {
        match answer(&format!("{} {} asks to {what}", manifest.name, manifest.version))? {
            Some(true) => powers.push(power),
            Some(false) => denied.push(power),
            None => {}
        }
    }
    Ok(())
}

/// Yes, no, or nothing; who says something else is asked again.
fn answer(question: &str) -> anyhow::Result<Option<bool>> {
    loop {
        let mut error = std::io::stderr().lock();
        let _ = write!(error, "{question}\nMay it? (y or n, nothing for what it had) ");
        let _ = error.flush();
        drop(error);
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => return Ok(Some(true)),
            "n" | "no" => return Ok(Some(false)),
            "" => return Ok(None),
            _ => {}
        }
    }
}

fn expiry(days: Option<u32>) -> Option<u64> {
    days.map(|days| now() + u64::from(days) * 24 * 60 * 60)
}

/// What an owner lets an app have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    Folder(Choice),
    Power(Power),
}

impl Given {
    fn folder(&self) -> Option<Choice> {
        if let Self::Folder(choice) = self { Some(choice.clone()) } else { None }
    }

    fn power(&self) -> Option<Power> {
        if let Self::Power(power) = self { Some(power.clone()) } else { None }
    }
}

fn parse_given(text: &str) -> std::result::Result<Given, String> {
    match parse_power(text)? {
        Some(power) => Ok(Given::Power(power)),
        None => parse_choice(text).map(Given::Folder),
    }
}

/// `None` where it is about a folder.
fn parse_power(text: &str) -> std::result::Result<Option<Power>, String> {
    let connect = |host: &str, is_private| match host_of(host) {
        Some(_) => Ok(Power::Connect(Host { host: host.to_owned(), is_private })),
        None => Err(format!("{host:?} is no host: a name or an address in lower case, and perhaps a port")),
    };
    Ok(Some(match text.split_once(':') {
        None if text == "http" => Power::Serve,
        None if text == "receive" => Power::Receive,
        None if text == "policy" => Power::Policy(Otherwise::Refuse),
        None if text == "policy-fail-open" => Power::Policy(Otherwise::Allow),
        Some(("send", app)) => Power::Send(app.to_owned()),
        Some(("host", host)) => connect(host, false)?,
        Some(("private-host", host)) => connect(host, true)?,
        Some(("socket", address)) => {
            Power::Socket(Endpoint::try_from(address.to_owned()).map_err(|error| error.to_string())?)
        }
        _ => return Ok(None),
    }))
}

fn parse_choice(text: &str) -> std::result::Result<Choice, String> {
    let (grant, place) = text.split_once('=').ok_or("a grant is NAME=PATH, as in photos=/pictures")?;
    let (path, rights) = match place.rsplit_once(':') {
        Some((path, "r")) => (path, Some(Rights::Read)),
        Some((path, "rw")) => (path, Some(Rights::ReadWrite)),
        _ => (place, None),
    };
    let path = match path {
        "-" => None,
        path if path.starts_with('/') => Some(path.to_owned()),
        _ => return Err(format!("{path:?} is no path from the root of the store, as in /pictures")),
    };
    Ok(Choice { grant: grant.to_owned(), path, rights, expires: None })
}

fn to_json<T: serde::Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n")
}

/// What connections go to, for people, who should see when that is something of their own.
fn place(address: &Endpoint) -> String {
    let is_own = address.address().is_some_and(|address| !is_public(address));
    format!("{address}{}", if is_own { " (this machine, or a network of your own)" } else { "" })
}

/// An installed app, for people.
fn shown(details: &Details) -> String {
    let mut text = described(&details.manifest);
    text += &format!("changes made as  {}\n", details.actor);
    text += &format!("runs             {}\n", if details.is_enabled { "yes" } else { "no, it is disabled" });
    for Grant { name, path, rights, expires, .. } in &details.grants {
        let end = expires.map_or_else(String::new, |end| format!(", until {end} seconds since 1970"));
        text += &format!("granted          {name} = {path} ({rights}{end})\n");
    }
    if details.powers.serves {
        let place = details.url.as_deref().unwrap_or("where the store is mounted with the option http");
        text += &format!("granted          to answer HTTP requests ({place})\n");
    }
    for Host { host, is_private } in &details.powers.hosts {
        let own = if *is_private { ", also in a network of your own" } else { "" };
        text += &format!("granted          to send requests to {host}{own}\n");
    }
    for address in &details.powers.sockets {
        text += &format!("granted          to open connections to {}\n", place(address));
    }
    if let Some(otherwise) = details.powers.policy {
        let what = match otherwise {
            Otherwise::Refuse => "refused",
            Otherwise::Allow => "allowed",
        };
        text += &format!("granted          to refuse what others do; what it does not answer is {what}\n");
    }
    if details.powers.receives {
        text += "granted          to take messages of other apps\n";
    }
    for app in &details.powers.sends {
        text += &format!("granted          to send messages to {app}\n");
    }
    for letter in &details.dead_letters {
        text += &format!("not handled      {:?}: {}\n", letter.event, letter.reason);
    }
    text
}

/// What a manifest says, for people.
fn described(manifest: &Manifest) -> String {
    let mut text = format!("{} {}\n{}\n", manifest.name, manifest.version, manifest.summary);
    let author = if manifest.author.is_empty() { "nobody signed it" } else { &manifest.author };
    text += &format!("author           {author}\n");
    for wanted in &manifest.grants {
        text += &format!("asks for         {} ({}): {}\n", wanted.name, wanted.rights, wanted.reason);
    }
    if let Some(serve) = &manifest.serve {
        text += &format!("asks for         answering HTTP requests: {}\n", serve.reason);
    }
    if let Some(policy) = &manifest.policy {
        text += &format!("asks for         refusing what others do below its grants: {}\n", policy.reason);
    }
    if let Some(receive) = &manifest.receive {
        text += &format!("asks for         taking messages of other apps: {}\n", receive.reason);
    }
    for Recipient { app, reason } in &manifest.send {
        text += &format!("asks for         sending messages to {app}: {reason}\n");
    }
    for Connect { host, reason } in &manifest.connect {
        text += &format!("asks for         sending requests to {host}: {reason}\n");
    }
    for Socket { address, reason } in &manifest.sockets {
        text += &format!("asks for         opening connections to {}: {reason}\n", place(address));
    }
    for trigger in &manifest.triggers {
        text += &match trigger {
            Trigger::Files { grant, glob, events } => {
                let events: Vec<String> =
                    events.iter().map(|event| format!("{event:?}").to_lowercase()).collect();
                format!("called for       {grant}/{glob}: {}\n", events.join(", "))
            }
            Trigger::Timer { name, seconds } => format!("called for       {name}, every {seconds} s\n"),
        };
    }
    let limits = manifest.limits;
    text + &format!("limits           {} MiB, {} s for an event\n", limits.memory_mib, limits.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let choice = parse_choice("photos=/a b:rw").unwrap();
        assert_eq!((choice.grant.as_str(), choice.path.as_deref()), ("photos", Some("/a b")));
        assert_eq!(choice.rights, Some(Rights::ReadWrite));
        assert_eq!(parse_choice("photos=/a").unwrap().rights, None);
        assert_eq!(parse_choice("photos=/a:b").unwrap().path.as_deref(), Some("/a:b"));
        assert_eq!(parse_choice("photos=-").unwrap().path, None);
        let host =
            |name: &str, is_private| Given::Power(Power::Connect(Host { host: name.to_owned(), is_private }));
        assert_eq!(parse_given("http"), Ok(Given::Power(Power::Serve)));
        assert_eq!(parse_given("receive"), Ok(Given::Power(Power::Receive)));
        assert_eq!(parse_given("send:thumbnails"), Ok(Given::Power(Power::Send("thumbnails".into()))));
        let policy = |otherwise| Ok(Given::Power(Power::Policy(otherwise)));
        assert_eq!(parse_given("policy"), policy(Otherwise::Refuse));
        assert_eq!(parse_given("policy-fail-open"), policy(Otherwise::Allow));
        assert_eq!(parse_given("host:example.org"), Ok(host("example.org", false)));
        assert_eq!(parse_given("private-host:nas:8080"), Ok(host("nas:8080", true)));
        assert!(parse_given("host:").is_err() && parse_given("host:a/b").is_err());
        let address = Endpoint::new("fd00::1", 22).unwrap();
        assert_eq!(parse_given("socket:[fd00::1]:22"), Ok(Given::Power(Power::Socket(address))));
        for wrong in ["socket:", "socket:nas", "socket:nas:0", "socket:NAS:22", "socket:nas:22:22"] {
            assert!(parse_given(wrong).is_err(), "{wrong}");
        }
        assert!(parse_choice("photos").is_err() && parse_choice("photos=a").is_err());
    }

    #[test]
    fn an_address_of_the_owners_own_is_shown_as_such() {
        let shown = |host: &str| place(&Endpoint::new(host, 22).unwrap());
        assert_eq!(shown("1.1.1.1"), "1.1.1.1:22");
        assert_eq!(shown("nas"), "nas:22", "it has to lead to the public network");
        for (host, shown_as) in [("127.0.0.1", "127.0.0.1:22"), ("fd00::1", "[fd00::1]:22")] {
            assert_eq!(shown(host), format!("{shown_as} (this machine, or a network of your own)"));
        }
    }
}
