//! What an app's author does: a new app, building it, packing, signing, and looking at packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context as _, anyhow, bail};
use blocktree_sandbox::package::{self, Package, Project, sign, template};

use super::{described, print, read_package, to_json};
use crate::cli::PassphraseSource;
use crate::failure::Result;
use crate::principals::Who;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a folder with a small app to begin with
    New {
        /// The folder; its name is the app's
        folder: PathBuf,
        /// What it is written in
        #[arg(long, value_enum, default_value_t = Language::Rust)]
        language: Language,
    },
    /// Run the build command of an app's folder
    Build {
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Make a package of what was built
    Pack {
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Where the package goes [default: NAME-VERSION.btapp in the folder]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Sign a package; it stays where it is
    Sign {
        file: PathBuf,
        /// A principal with its keys: a name or a file
        #[arg(long, value_name = "PRINCIPAL")]
        author: Who,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Check a package: that it is whole, and that its author signed it
    Verify { file: PathBuf },
    /// Show what is in a package
    Inspect {
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Language {
    Rust,
    Typescript,
}

impl From<Language> for package::Language {
    fn from(language: Language) -> Self {
        match language {
            Language::Rust => Self::Rust,
            Language::Typescript => Self::Typescript,
        }
    }
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::New { folder, language } => make(folder, *language)?,
        Command::Build { folder } => build(folder)?,
        Command::Pack { folder, output } => {
            let project = Project::read(folder)?;
            let package = project.pack(folder)?;
            let output = match output {
                Some(output) => output.clone(),
                None => folder.join(format!("{}-{}.btapp", project.name, project.version)),
            };
            fs::write(&output, package).with_context(|| format!("cannot write {}", output.display()))?;
            print(&format!("{}\n", output.display()))?;
        }
        Command::Sign { file, author, passphrase } => {
            let package = read_package(file)?;
            let author = author.open(passphrase.source().as_ref())?;
            let signed = sign(&package, &author).with_context(|| format!("{}", file.display()))?;
            replace(file, &signed)?;
        }
        Command::Verify { file } => {
            let package = read_package(file)?;
            let verified = Package::verify(&package).with_context(|| format!("{}", file.display()))?;
            let manifest = &verified.manifest;
            print(&format!("{} {}, signed by {}\n", manifest.name, manifest.version, manifest.author))?;
        }
        Command::Inspect { file, json } => {
            let package = read_package(file)?;
            let (_, manifest) = Package::parse(&package).with_context(|| format!("{}", file.display()))?;
            if *json {
                print(&to_json(&manifest)?)?;
                return Ok(());
            }
            let files = manifest.files.iter();
            let files: String =
                files.map(|one| format!("file             {} ({} bytes)\n", one.path, one.bytes)).collect();
            print(&(described(&manifest) + &files))?;
        }
    }
    Ok(())
}

fn make(folder: &Path, language: Language) -> anyhow::Result<()> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let files = template(name, language.into()).with_context(|| {
        format!("{name:?} cannot be an app's name: it has lower-case letters, digits and single hyphens")
    })?;
    if folder.exists() {
        bail!("{} is there already", folder.display());
    }
    for (path, text) in files {
        let path = folder.join(path);
        let above = path.parent().unwrap_or(folder);
        let written = fs::create_dir_all(above).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let project = Project::read(folder)?;
    let Some(command) = project.build else {
        bail!("{} does not say how the app is built", folder.join("app.toml").display());
    };
    let status = Process::new("sh")
        .args(["-c", &command])
        .current_dir(folder)
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        return Err(anyhow!("{command:?} failed ({status})"));
    }
    Ok(())
}

/// Replaces a file as a whole.
fn replace(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}
