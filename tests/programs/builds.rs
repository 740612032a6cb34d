//! Tools that build and install programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{across_a_remount, shell, succeed};

#[test]
fn cargo_builds_and_finds_it_fresh() {
    let cargo = |mount: &Path, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(mount.join("hello"))
            .args(arguments)
            .env("CARGO_TARGET_DIR", mount.join("target"));
        succeed(&mut command)
    };
    across_a_remount(
        |mount| {
            fs::create_dir_all(mount.join("hello/src")).unwrap();
            fs::write(
                mount.join("hello/Cargo.toml"),
                "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[workspace]\n",
            )
            .unwrap();
            fs::write(mount.join("hello/src/lib.rs"), "pub fn answer() -> u32 { 42 }\n").unwrap();
            fs::write(mount.join("hello/src/main.rs"), "fn main() { println!(\"{}\", hello::answer()); }\n")
                .unwrap();
            cargo(mount, &["build", "--offline", "--quiet"]);
        },
        |mount| {
            let executable = mount.join("target/debug/hello");
            assert_eq!(succeed(&mut Command::new(&executable)), "42\n");
            let built = fs::metadata(&executable).unwrap().modified().unwrap();
            // Times survived, so there is nothing to build.
            cargo(mount, &["build", "--offline", "--quiet"]);
            assert_eq!(fs::metadata(&executable).unwrap().modified().unwrap(), built);
        },
    );
}

/// Makes a wheel by hand: a package of one module, with a program that calls it.
const MAKE_WHEEL: &str = r#"
import zipfile
files = {
    "greet.py": "def main():\n    print('hello from', __name__)\n",
    "greet-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
    "greet-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greet-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greet:main\n",
}
files["greet-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
with zipfile.ZipFile("greet-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

#[test]
fn python_environment_with_pip() {
    // Debian's: another in PATH may lack what `venv` needs.
    let python = "/usr/bin/python3";
    across_a_remount(
        |mount| {
            succeed(Command::new(python).args(["-m", "venv", "environment"]).current_dir(mount));
            succeed(Command::new(python).args(["-c", MAKE_WHEEL]).current_dir(mount));
            shell(
                mount,
                "environment/bin/pip --quiet --no-input install --no-index ./greet-1.0-py3-none-any.whl",
            );
        },
        |mount| {
            assert_eq!(shell(mount, "environment/bin/greet"), "hello from greet\n");
            assert_eq!(shell(mount, "environment/bin/pip check"), "No broken requirements found.\n");
            let installed = shell(mount, "environment/bin/pip list --format=freeze");
            assert!(installed.contains("greet==1.0\n"), "{installed}");
        },
    );
}
