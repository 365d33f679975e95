//! Names that differ in nothing that Windows distinguishes.
//!
//! NTFS itself keeps `readme` and `README` apart, and folders marked as case-sensitive use that. To WinFsp's
//! driver both would be one file, whose cached bytes would answer for the other. So the first of them, in the
//! folder's order, is shown as it is, and each further one gets U+F07E (`~` in the private-use area) and a
//! number behind its name: `readme`, then `README\u{F07E}2`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::names::to_windows;

/// Stands between a name and its number.
const MARK: u16 = 0xF07E;

/// The names of one folder that are not shown by the plain rule. Empty for nearly all folders.
#[derive(Debug, Default)]
pub struct Twins {
    /// The name in the view of each folded name that several share, and of each numbered one.
    by_fold: HashMap<Vec<u16>, Vec<u8>>,
    /// What a name in the view is shown as.
    shown: HashMap<Vec<u8>, Vec<u16>>,
}

impl Twins {
    /// Finds the twins among `names`, which come in the folder's order.
    #[must_use]
    pub fn among(names: &[Vec<u8>]) -> Self {
        let mut first: HashMap<Vec<u16>, usize> = HashMap::with_capacity(names.len());
        let mut later = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match first.entry(fold(&to_windows(name))) {
                Entry::Vacant(free) => drop(free.insert(index)),
                Entry::Occupied(taken) => later.push((index, taken.key().clone())),
            }
        }
        let mut twins = Twins::default();
        for (index, folded) in later {
            let name = &names[index];
            if let Some(&first) = first.get(&folded) {
                twins.by_fold.entry(folded).or_insert_with(|| names[first].clone());
            }
            let mut number = 2;
            let shown = loop {
                let mut shown = to_windows(name);
                shown.push(MARK);
                shown.extend(number.to_string().encode_utf16());
                if !first.contains_key(&fold(&shown)) && !twins.by_fold.contains_key(&fold(&shown)) {
                    break shown;
                }
                number += 1;
            };
            twins.by_fold.insert(fold(&shown), name.clone());
            twins.shown.insert(name.clone(), shown);
        }
        twins
    }

    /// What Windows is shown for `name`.
    #[must_use]
    pub fn show(&self, name: &[u8]) -> Vec<u16> {
        self.shown.get(name).cloned().unwrap_or_else(|| to_windows(name))
    }

    /// The name in the view that `shown` means, when the plain rule does not decide it.
    #[must_use]
    pub fn find(&self, shown: &[u16]) -> Option<&[u8]> {
        if self.by_fold.is_empty() {
            return None;
        }
        self.by_fold.get(&fold(shown)).map(Vec::as_slice)
    }
}

/// A name as Windows compares it. It folds at least what Windows' own table does: of later Unicode's letters
/// more, which at worst numbers a name that need not have been.
#[must_use]
pub fn fold(shown: &[u16]) -> Vec<u16> {
    let upper = |unit: u16| {
        let Some(c) = char::from_u32(u32::from(unit)) else { return unit };
        let mut upper = c.to_uppercase();
        match (upper.next().map(u32::from).map(u16::try_from), upper.next()) {
            (Some(Ok(upper)), None) => upper,
            _ => unit,
        }
    };
    shown.iter().map(|&unit| upper(unit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn ordinary_folders_have_none() {
        let twins = Twins::among(&names(&["a", "b", "A b"]));
        assert_eq!(twins.show(b"a"), wide("a"));
        assert_eq!(twins.find(&wide("A")), None);
    }

    #[test]
    fn each_twin_has_a_name_of_its_own_and_the_plain_one_means_the_first() {
        let twins = Twins::among(&names(&["ReadMe", "README", "x", "readme", "grün", "GRÜN"]));
        let shown = ["ReadMe", "README\u{F07E}2", "x", "readme\u{F07E}3", "grün", "GRÜN\u{F07E}2"];
        for (name, shown) in ["ReadMe", "README", "x", "readme", "grün", "GRÜN"].iter().zip(shown) {
            assert_eq!(String::from_utf16(&twins.show(name.as_bytes())).unwrap(), shown);
        }
        for plain in ["readme", "README", "ReadMe"] {
            assert_eq!(twins.find(&wide(plain)), Some(b"ReadMe".as_slice()));
        }
        assert_eq!(twins.find(&wide("readme\u{F07E}2")), Some(b"README".as_slice()));
        assert_eq!(twins.find(&wide("Readme\u{F07E}3")), Some(b"readme".as_slice()));
        assert_eq!(twins.find(&wide("x")), None);
    }

    #[test]
    fn a_number_that_is_taken_is_passed_over() {
        let twins = Twins::among(&names(&["a", "A", "a\u{F07E}2", "b:c", "b\u{F03A}c"]));
        assert_eq!(twins.show(b"A"), wide("A\u{F07E}3"));
        assert_eq!(twins.find(&wide("A\u{F07E}2")), None, "that is a name of the volume's own");
        assert_eq!(twins.show("b\u{F03A}c".as_bytes()), wide("b\u{F03A}c\u{F07E}2"), "escapes can meet too");
    }
}
