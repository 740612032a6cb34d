//! What a new app begins with: a small one that works, in Rust.

const FILES: &[(&str, &str)] = &[
    ("app.toml", include_str!("../../template/app.toml")),
    ("Cargo.toml", include_str!("../../template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs.in")),
    ("wit/blocktree.wit", include_str!("../../wit/blocktree.wit")),
    (".gitignore", "/target\n*.btapp\n"),
];

/// The paths and the contents of the files of a new app. `None` if `name` cannot be one's name.
pub fn template(name: &str) -> Option<Vec<(&'static str, String)>> {
    if !super::is_name(name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return None;
    }
    let fill = |(path, text): &(&'static str, &str)| {
        (*path, text.replace("NAME", name).replace("CRATE", &name.replace('-', "_")))
    };
    Some(FILES.iter().map(fill).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::Project;

    #[test]
    fn a_new_app_is_one() {
        let files = template("word-count").expect("a name");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("app.toml"), &files[0].1).expect("written");
        let project = Project::read(folder.path()).expect("read");
        assert_eq!(project.name, "word-count");
        assert!(project.component.ends_with("word_count.wasm"));
        assert!(!files.iter().any(|(_, text)| text.contains("NAME") || text.contains("CRATE")));
        for name in ["", "Word", "../x", "7up"] {
            assert!(template(name).is_none(), "{name:?}");
        }
    }
}
