//! What code imports that an owner has to hear of.

use wasmparser::{Parser, Payload};

/// The interfaces of WASI that need the same word of the owner as the app's own.
const SOCKETS: &str = "wasi:sockets/";

/// The first import of a component by which it would open connections. Nothing depends on that being found: the node allows
/// nobody what the manifest does not ask for. So what cannot be read is left to who runs it.
pub fn sockets_import(component: &[u8]) -> Option<String> {
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            // What is inside imports from what is around it.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.checked_sub(1)?,
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    let name = import.ok()?.name.name;
                    if name.starts_with(SOCKETS) {
                        return Some(name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The beginning of a component, with an instance type of nothing.
    const BEGIN: &[u8] = b"\0asm\x0d\0\x01\0\x07\x03\x01\x42\0";

    /// A section of components.
    fn section(id: u8, contents: &[u8]) -> Vec<u8> {
        [&[id, contents.len() as u8], contents].concat()
    }

    /// A component that imports an instance of this name.
    pub(in crate::package) fn importing(name: &str) -> Vec<u8> {
        let import = [&[1, 0, name.len() as u8], name.as_bytes(), &[5, 0]].concat();
        [BEGIN, &section(10, &import)].concat()
    }

    #[test]
    fn imports_of_sockets_are_found() {
        let component = importing("wasi:sockets/tcp@0.2.12");
        assert_eq!(sockets_import(&component).as_deref(), Some("wasi:sockets/tcp@0.2.12"));
        for at in 0..component.len() {
            assert_eq!(sockets_import(&component[..at]), None, "cut at {at}");
        }
        let both =
            [importing("wasi:io/poll@0.2.0"), importing("wasi:sockets/udp@0.2.0")[BEGIN.len()..].to_vec()];
        assert_eq!(sockets_import(&both.concat()).as_deref(), Some("wasi:sockets/udp@0.2.0"));
        assert_eq!(sockets_import(&importing("blocktree:app/sockets@0.1.0")), None);
        // What is inside gets it from the component, which does not have it.
        let around =
            [BEGIN, &section(4, &component), &importing("wasi:io/poll@0.2.0")[BEGIN.len()..]].concat();
        assert_eq!(sockets_import(&around), None);
        let behind = [around, component[BEGIN.len()..].to_vec()].concat();
        assert_eq!(sockets_import(&behind).as_deref(), Some("wasi:sockets/tcp@0.2.12"));
        assert_eq!(sockets_import(b"code"), None);
    }
}
