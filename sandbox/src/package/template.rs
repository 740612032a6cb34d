//! What a new app begins with: a small one that works.

/// In which language an author wants to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Typescript,
}

type File = (&'static str, &'static str);

const INTERFACE: File = ("wit/blocktree.wit", include_str!("../../wit/blocktree.wit"));

const RUST: &[File] = &[
    ("app.toml", include_str!("../../template/rust/app.toml")),
    ("Cargo.toml", include_str!("../../template/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../template/rust/src/lib.rs.in")),
    INTERFACE,
    (".gitignore", "/target\n*.btapp\n"),
];

const TYPESCRIPT: &[File] = &[
    ("app.toml", include_str!("../../template/typescript/app.toml")),
    ("package.json", include_str!("../../template/typescript/package.json")),
    ("package-lock.json", include_str!("../../template/typescript/package-lock.json")),
    (".npmrc", include_str!("../../template/typescript/npmrc")),
    ("tsconfig.json", include_str!("../../template/typescript/tsconfig.json")),
    ("src/app.ts", include_str!("../../template/typescript/src/app.ts")),
    ("blocktree/blocktree.d.ts", include_str!("../../typescript/blocktree.d.ts")),
    ("blocktree/kit.ts", include_str!("../../typescript/kit.ts")),
    INTERFACE,
    (".gitignore", "/build\n/node_modules\n*.btapp\n"),
];

/// The paths and the contents of the files of a new app. `None` if `name` cannot be one's name.
pub fn template(name: &str, language: Language) -> Option<Vec<(&'static str, String)>> {
    if !super::is_name(name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return None;
    }
    let files = match language {
        Language::Rust => RUST,
        Language::Typescript => TYPESCRIPT,
    };
    let fill =
        |(path, text): &File| (*path, text.replace("NAME", name).replace("CRATE", &name.replace('-', "_")));
    Some(files.iter().map(fill).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::Project;

    #[test]
    fn a_new_app_is_one() {
        for (language, component) in
            [(Language::Rust, "word_count.wasm"), (Language::Typescript, "build/app.wasm")]
        {
            let files = template("word-count", language).expect("a name");
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("app.toml"), &files[0].1).expect("written");
            let project = Project::read(folder.path()).expect("read");
            assert_eq!(project.name, "word-count");
            assert!(project.component.ends_with(component));
            assert!(!files.iter().any(|(_, text)| text.contains("NAME") || text.contains("CRATE")));
            for name in ["", "Word", "../x", "7up"] {
                assert!(template(name, language).is_none(), "{name:?}");
            }
        }
        // Hashes are replaced by nothing.
        let lock = TYPESCRIPT.iter().find(|(path, _)| *path == "package-lock.json").expect("there");
        assert!(!lock.1.contains("NAME") && !lock.1.contains("CRATE"));
    }

    /// `file-name` as TypeScript has it.
    fn camel_case(name: &str) -> String {
        let mut parts = name.trim_start_matches('%').split('-');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| all + &part[..1].to_uppercase() + &part[1..])
    }

    #[test]
    fn the_types_for_typescript_are_those_of_the_interface() {
        let types = include_str!("../../typescript/blocktree.d.ts");
        let mut module = "";
        let mut names = 0;
        for line in INTERFACE.1.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("interface ").and_then(|rest| rest.strip_suffix(" {")) {
                let declared = format!("declare module \"blocktree:app/{name}@0.1.0\" {{");
                let from = types.split_once(&declared).unwrap_or_else(|| panic!("{name} is not declared")).1;
                module = from.split_once("\n}\n").map_or(from, |(inside, _)| inside);
            }
            if line.starts_with("world ") {
                break;
            }
            let Some((name, rest)) = line.split_once(": ").filter(|(name, _)| {
                name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'%'))
            }) else {
                continue;
            };
            let name = camel_case(name);
            let expected = match rest.starts_with("func(") {
                // A word that is taken: it is exported under another name.
                true if name == "delete" => "remove as delete".to_owned(),
                true => format!("{name}("),
                false => format!("{name}: "),
            };
            assert!(module.contains(&expected), "{expected} is not in {module}");
            names += 1;
        }
        assert!(names > 50, "these are too few: {names}");
    }
}
