//! The named options of an axis form, as in `{ from: 1, to: 5 }`: which there may be and which must be there.

use super::mistake::{Mistake, listed};
use super::yaml::{Item, Key, Tree};

/// The options of a form.
pub(super) struct Fields<'a> {
    form: &'a Key,
    options: &'a Tree,
    entries: &'a [(Key, Tree)],
}

impl<'a> Fields<'a> {
    /// Takes a mapping apart; `None` after telling `out` that it is none or has other keys.
    pub fn read(form: &'a Key, options: &'a Tree, valid: &[&str], out: &mut Vec<Mistake>) -> Option<Fields<'a>> {
        let Item::Map(entries) = &options.item else {
            let what = options.described();
            let message = format!("`{}` must be a mapping of {}, not {what}", form.text, listed(valid));
            out.push(Mistake::new(&options.at, message));
            return None;
        };
        let before = out.len();
        for (key, _) in entries.iter().filter(|(key, _)| !valid.contains(&key.text.as_str())) {
            let message = format!("`{}` has no option `{}`", form.text, key.text);
            out.push(Mistake::unknown(&key.at, message, &key.text, valid.iter().copied()));
        }
        (out.len() == before).then_some(Fields { form, options, entries })
    }

    /// Returns an option that may be left out.
    pub fn find(&self, name: &str) -> Option<&'a Tree> {
        self.entries
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, tree)| tree)
    }

    /// Returns an option; `None` after telling `out` that it is missing.
    pub fn get(&self, name: &str, out: &mut Vec<Mistake>) -> Option<&'a Tree> {
        let found = self.find(name);
        if found.is_none() {
            let message = format!("`{}` needs `{name}`", self.form.text);
            out.push(Mistake::new(&self.options.at, message));
        }
        found
    }
}
