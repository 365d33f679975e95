//! Reading answers into small trees, and writing requests.
//!
//! Reading is lenient about what is inside and strict about form: namespaces are resolved, so that
//! `xsi:type` and a plain `type` attribute are not mixed up; size, depth and number of elements are
//! capped; document types and undeclared entities are refused.

use quick_xml::XmlVersion;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

use crate::model::Moref;

/// Largest answer read, in bytes. The inventory of a large vCenter comes in pages of a few MiB.
pub const MAX_BYTES: u64 = 64 << 20;
/// Deepest nesting. A chain of 32 snapshots nests two elements per link, a delta chain one.
const MAX_DEPTH: usize = 256;
/// Most elements of one answer.
const MAX_NODES: usize = 1 << 20;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// An element.
#[derive(Debug, Default)]
pub struct Node {
    /// Name without prefix.
    pub name: String,
    /// `xsi:type` without prefix.
    pub xsi_type: Option<String>,
    /// The plain `type` attribute: the kind of a managed object reference.
    pub type_attr: Option<String>,
    /// All text directly inside.
    pub text: String,
    /// Elements inside, in order.
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|node| node.name == name)
    }

    /// All children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |node| node.name == name)
    }

    /// Follows first children.
    pub fn path(&self, names: &[&str]) -> Option<&Node> {
        names.iter().try_fold(self, |node, name| node.child(name))
    }

    /// Text of a child; `None` when it is missing.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|node| node.text.trim())
    }

    /// Text of a child, owned, with empty taken as missing.
    pub fn string(&self, name: &str) -> Option<String> {
        self.text_of(name).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A child's text as a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text_of(name)?.parse().ok()
    }

    /// A child's text as a boolean; missing is `None`.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.text_of(name).map(is_true)
    }

    /// This element as a managed object reference.
    pub fn moref(&self) -> Option<Moref> {
        let value = self.text.trim();
        (!value.is_empty()).then(|| Moref { kind: self.type_attr.clone().unwrap_or_default(), value: value.to_owned() })
    }
}

/// The two spellings XML Schema has for true.
pub fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1")
}

/// Parses a document and gives its root element.
///
/// # Errors
/// A description of what is wrong with it.
pub fn parse(bytes: Vec<u8>) -> Result<Node, String> {
    let text = String::from_utf8(bytes).map_err(|_| "the answer is not UTF-8".to_owned())?;
    let mut reader = NsReader::from_str(text.trim_start_matches('\u{feff}'));
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    let mut count = 0usize;
    loop {
        let event = reader.read_event().map_err(|err| format!("malformed XML: {err}"))?;
        match event {
            Event::Start(start) => {
                bounded(&mut count, open.len())?;
                open.push(element(&reader, &start)?);
            }
            Event::Empty(start) => {
                bounded(&mut count, open.len())?;
                let node = element(&reader, &start)?;
                close(&mut open, &mut root, node)?;
            }
            Event::End(_) => {
                let node = open.pop().ok_or("an element ends that was not opened")?;
                close(&mut open, &mut root, node)?;
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(entity) => {
                let resolved = match entity.resolve_char_ref().map_err(|err| format!("malformed XML: {err}"))? {
                    Some(character) => character.to_string(),
                    None => match &*entity.xml10_content() {
                        "amp" => "&".to_owned(),
                        "lt" => "<".to_owned(),
                        "gt" => ">".to_owned(),
                        "quot" => "\"".to_owned(),
                        "apos" => "'".to_owned(),
                        _ => return Err("the answer uses an undeclared entity".to_owned()),
                    },
                };
                append(&mut open, &resolved);
            }
            Event::DocType(_) => return Err("the answer declares a document type".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if !open.is_empty() {
        return Err("the answer ends in the middle of an element".to_owned());
    }
    root.ok_or_else(|| "the answer holds no element".to_owned())
}

fn bounded(count: &mut usize, depth: usize) -> Result<(), String> {
    *count += 1;
    if *count > MAX_NODES || depth >= MAX_DEPTH {
        return Err(format!("the answer has more than {MAX_NODES} elements or nests deeper than {MAX_DEPTH}"));
    }
    Ok(())
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Node, String> {
    let mut node = Node { name: start.local_name().as_ref().to_owned(), ..Node::default() };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|err| format!("malformed XML: {err}"))?;
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        if local.as_ref() != "type" {
            continue;
        }
        let value =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|err| format!("malformed XML: {err}"))?;
        match namespace {
            ResolveResult::Bound(Namespace(XSI)) => {
                node.xsi_type = Some(value.rsplit(':').next().unwrap_or_default().to_owned());
            }
            ResolveResult::Unbound => node.type_attr = Some(value.into_owned()),
            ResolveResult::Bound(_) | ResolveResult::Unknown(_) => {}
        }
    }
    Ok(node)
}

fn close(open: &mut [Node], root: &mut Option<Node>, node: Node) -> Result<(), String> {
    match open.last_mut() {
        Some(parent) => parent.children.push(node),
        None if root.is_none() => *root = Some(node),
        None => return Err("the answer holds two documents".to_owned()),
    }
    Ok(())
}

fn append(open: &mut [Node], text: &str) {
    if let Some(node) = open.last_mut() {
        node.text.push_str(text);
    }
}

/// Appends `<name>text</name>`.
pub fn tag(out: &mut String, name: &str, text: &str) {
    // XML 1.0 has no way to write most control characters.
    let clean: String = text
        .chars()
        .map(|c| if c < ' ' && !matches!(c, '\t' | '\n' | '\r') { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    out.push('<');
    out.push_str(name);
    out.push('>');
    out.push_str(&escape(clean));
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// Appends a managed object reference.
pub fn moref(out: &mut String, name: &str, object: &Moref) {
    out.push_str(&format!(
        "<{name} type=\"{}\">{}</{name}>",
        escape(object.kind.as_str()),
        escape(object.value.as_str())
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, String> {
        parse(text.as_bytes().to_vec())
    }

    #[test]
    fn the_two_type_attributes_are_told_apart() {
        let node = read(
            "<r xmlns='urn:vim25' xmlns:i='http://www.w3.org/2001/XMLSchema-instance' xmlns:v='urn:vim25'>\
             <a i:type='v:ManagedObjectReference' type='Task'>task-1</a></r>",
        )
        .unwrap();
        let a = node.child("a").unwrap();
        assert_eq!(a.xsi_type.as_deref(), Some("ManagedObjectReference"));
        assert_eq!(a.moref().unwrap(), Moref::new("Task", "task-1"));
    }

    #[test]
    fn text_is_unescaped_and_joined() {
        let node = read("<a>x&amp;y &#x41;<![CDATA[<z>]]><b/>!</a>").unwrap();
        assert_eq!(node.text, "x&y A<z>!");
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(300) + &"</a>".repeat(300);
        for (text, want) in [
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "document type"),
            ("<a>&x;</a>", "undeclared entity"),
            (deep.as_str(), "nests deeper"),
            ("<a><b></a>", "malformed"),
            ("<a>", "middle"),
            ("<a/><b/>", "two documents"),
            ("", "no element"),
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains(want), "{text:.40}: {err}");
        }
        assert!(parse(vec![b'<', 0xff, b'>']).is_err());
    }

    #[test]
    fn every_truncation_is_an_error_and_never_a_panic() {
        let text = "<a x='1'><b>&lt;t</b><c type=\"VirtualMachine\">vm-1</c></a>";
        for cut in 0..text.len() {
            assert!(read(&text[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut out = String::from("<r>");
        tag(&mut out, "n", "a<b>&\"'\u{1}é");
        moref(&mut out, "m", &Moref::new("VirtualMachine", "vm-<1>"));
        out.push_str("</r>");
        let node = read(&out).unwrap();
        assert_eq!(node.text_of("n"), Some("a<b>&\"'\u{fffd}é"));
        assert_eq!(node.child("m").unwrap().moref().unwrap(), Moref::new("VirtualMachine", "vm-<1>"));
    }
}
