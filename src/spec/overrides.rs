//! What changes a pipeline from outside of its stages: the chosen profile, then every `--set`, in that order.
//!
//! Both work on the tree before it is read, so that what they write is checked exactly like what the file says, and
//! keep their own places, so that a mistake names the option. They can change but not invent parameters and stages.

use super::merge::{self, Level};
use super::mistake::{At, Mistake};
use super::yaml::{self, Item, Key, Tree};

/// The sections that `--set` reaches by name; any other first word is a parameter.
const SECTIONS: [&str; 4] = ["params", "stages", "templates", "defaults"];

/// Merges a profile's `params` and `defaults` into the pipeline.
pub fn apply_profile(root: &mut Tree, name: &str, out: &mut Vec<Mistake>) {
    let profiles = root.get("profiles").cloned();
    let names = profile_names(root);
    let Some(profile) = profiles.as_ref().and_then(|profiles| profiles.get(name)) else {
        let message = format!("there is no profile `{name}`");
        let mistake = Mistake::unknown(
            &At::whole("--profile", name),
            message,
            name,
            names.iter().map(String::as_str),
        );
        out.push(if names.is_empty() {
            mistake.help("the pipeline has no `profiles`")
        } else {
            mistake
        });
        return;
    };
    for section in ["params", "defaults"] {
        if let Some(over) = profile.get(section).filter(|over| !over.is_null()) {
            // That every profile sets what there is has been checked.
            merge::lay(section_mut(root, section, &over.at), over, Level::Other);
        }
    }
}

/// Returns the names of the profiles that a pipeline has.
pub fn profile_names(root: &Tree) -> Vec<String> {
    match root.get("profiles").map(|profiles| &profiles.item) {
        Some(Item::Map(entries)) => entries.iter().map(|(key, _)| key.text.clone()).collect(),
        _ => Vec::new(),
    }
}

/// Checks that every profile sets parameters that exist; a profile is seldom chosen, but its mistakes are there.
pub fn check_profiles(root: &Tree, out: &mut Vec<Mistake>) {
    let Some(Item::Map(profiles)) = root.get("profiles").map(|profiles| &profiles.item) else {
        return;
    };
    let none = Tree {
        item: Item::Map(Vec::new()),
        at: root.at.clone(),
    };
    for over in profiles.iter().filter_map(|(_, profile)| profile.get("params")) {
        check_known(root.get("params").unwrap_or(&none), over, "params", out);
    }
}

fn check_known(base: &Tree, over: &Tree, path: &str, out: &mut Vec<Mistake>) {
    let (Item::Map(entries), Item::Map(changes)) = (&base.item, &over.item) else {
        return;
    };
    for (key, change) in changes {
        let inner = format!("{path}.{}", key.text);
        match base.get(&key.text) {
            Some(base) => check_known(base, change, &inner, out),
            None => {
                let names = entries.iter().map(|(key, _)| key.text.as_str());
                let message = format!("a profile can't set `{inner}`: the pipeline has no such parameter");
                out.push(Mistake::unknown(&key.at, message, &key.text, names));
            }
        }
    }
}

/// What an option of the command line changes.
pub(super) struct Target {
    /// `params`, `stages`, `templates` or `defaults`.
    pub section: String,
    /// The names that lead to it in the section, at least one.
    pub parts: Vec<Key>,
    /// Where the value stands in the option.
    pub value: At,
}

impl Target {
    /// Reads the path of `PATH=VALUE`, given to the option `name`.
    pub fn read(name: &str, option: &str, example: &str, out: &mut Vec<Mistake>) -> Option<Target> {
        let whole = At::whole(name, option);
        let Some((path, _)) = option.split_once('=') else {
            let message = format!("`{name}` needs a path and a value");
            out.push(Mistake::new(&whole, message).help(format!("write {name} {example}")));
            return None;
        };
        let mut parts: Vec<Key> = Vec::new();
        let mut start = 0;
        for part in path.split('.') {
            parts.push(Key {
                text: part.trim().to_owned(),
                at: whole.part(start..start + part.len()),
            });
            start += part.len() + 1;
        }
        if parts.iter().any(|part| part.text.is_empty()) {
            let message = format!("`{path}` is not a dotted name");
            out.push(Mistake::new(&whole.part(0..path.len()), message));
            return None;
        }
        let section = match parts[0].text.as_str() {
            name if SECTIONS.contains(&name) && parts.len() > 1 => parts.remove(0).text,
            _ => "params".to_owned(),
        };
        if parts.len() < 2 && matches!(section.as_str(), "stages" | "templates") {
            let message = format!("a whole {} can't be set", section.trim_end_matches('s'));
            let help = format!("write {section}.NAME.with.PARAMETER=VALUE");
            out.push(Mistake::new(&parts[0].at, message).help(help));
            return None;
        }
        Some(Target {
            section,
            parts,
            value: whole.part(path.len() + 1..option.len()),
        })
    }

    /// Writes a value there.
    pub fn set(&self, root: &mut Tree, value: Tree, out: &mut Vec<Mistake>) {
        // Parameters must exist and so must stages; what is set in a stage is checked when the stage is read.
        let must_exist = match self.section.as_str() {
            "params" => self.parts.len(),
            "stages" | "templates" => 1,
            _ => 0,
        };
        let section = section_mut(root, &self.section, &self.value);
        set(section, &self.parts, must_exist, &self.section, value, out);
    }
}

/// Applies one `--set PATH=VALUE`.
pub fn apply_set(root: &mut Tree, option: &str, out: &mut Vec<Mistake>) {
    let Some(target) = Target::read("--set", option, "sft_learning_rate=1e-4", out) else {
        return;
    };
    let before = out.len();
    if let Some(value) = yaml::parse(&target.value, out)
        && out.len() == before
    {
        target.set(root, value, out);
    }
}

fn set(tree: &mut Tree, parts: &[Key], must_exist: usize, path: &str, value: Tree, out: &mut Vec<Mistake>) {
    let [part, rest @ ..] = parts else {
        *tree = value;
        return;
    };
    if tree.is_null() && must_exist == 0 {
        tree.item = Item::Map(Vec::new());
    }
    let found = tree.described();
    let Item::Map(entries) = &mut tree.item else {
        out.push(Mistake::new(
            &part.at,
            format!("`{path}` is {found}, so it has no `{}`", part.text),
        ));
        return;
    };
    let inner = format!("{path}.{}", part.text);
    let idx = entries.iter().position(|(key, _)| key.text == part.text);
    if idx.is_none() && must_exist > 0 {
        let names = entries.iter().map(|(key, _)| key.text.as_str());
        let what = match path {
            "stages" => "stage",
            "templates" => "template",
            _ => "parameter",
        };
        out.push(Mistake::unknown(
            &part.at,
            format!("there is no {what} `{inner}`"),
            &part.text,
            names,
        ));
        return;
    }
    let idx = idx.unwrap_or_else(|| {
        entries.push((
            part.clone(),
            Tree {
                item: Item::Map(Vec::new()),
                at: part.at.clone(),
            },
        ));
        entries.len() - 1
    });
    set(
        &mut entries[idx].1,
        rest,
        must_exist.saturating_sub(1),
        &inner,
        value,
        out,
    );
}

/// Returns a section of the pipeline, made empty where it is missing; a root that is no mapping is told elsewhere.
pub(super) fn section_mut<'a>(root: &'a mut Tree, name: &str, at: &At) -> &'a mut Tree {
    if !matches!(root.item, Item::Map(_)) {
        root.item = Item::Map(Vec::new());
    }
    let Item::Map(entries) = &mut root.item else {
        unreachable!("it was just made a mapping")
    };
    let idx = entries.iter().position(|(key, _)| key.text == name).unwrap_or_else(|| {
        let key = Key {
            text: name.to_owned(),
            at: at.clone(),
        };
        entries.push((
            key,
            Tree {
                item: Item::Map(Vec::new()),
                at: at.clone(),
            },
        ));
        entries.len() - 1
    });
    let section = &mut entries[idx].1;
    if section.is_null() {
        section.item = Item::Map(Vec::new());
    }
    section
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PIPELINE: &str = "
params: { seed: 7, model: { size: 64, depth: 2 } }
profiles: { big: { params: { model: { size: 512 } }, defaults: { resources: { gpu: 1 } } }, bad: { params: { sede: 1 } } }
stages: { sft: { uses: astro.sft } }
";

    fn changed(profile: Option<&str>, sets: &[&str]) -> Result<Value, Vec<String>> {
        let mut out = Vec::new();
        let mut root = yaml::parse(&At::whole("p.yaml", PIPELINE), &mut out).expect("YAML");
        if let Some(profile) = profile {
            apply_profile(&mut root, profile, &mut out);
        }
        sets.iter().for_each(|option| apply_set(&mut root, option, &mut out));
        let line = |m: Mistake| format!("{}: {}", m.at.map(|at| at.to_string()).unwrap_or_default(), m.message);
        if out.is_empty() {
            Ok(root.to_value())
        } else {
            Err(out.into_iter().map(line).collect())
        }
    }

    #[test]
    fn a_set_overrides_a_profile_and_a_profile_the_file() {
        let value = changed(
            Some("big"),
            &["seed=8", "params.model.depth=4", "stages.sft.with.lr=1e-4"],
        )
        .expect("good");
        assert_eq!(value["params"], json!({"seed": 8, "model": {"size": 512, "depth": 4}}));
        assert_eq!(value["defaults"], json!({"resources": {"gpu": 1}}));
        assert_eq!(
            value["stages"]["sft"],
            json!({"uses": "astro.sft", "with": {"lr": 1e-4}})
        );
    }

    #[test]
    fn mistakes_name_the_option_and_the_place_in_it() {
        for (option, message) in [
            ("sede=1", "--set:1:1: there is no parameter `params.sede`"),
            ("model.sice=1", "--set:1:7: there is no parameter `params.model.sice`"),
            ("stages.sfd.with.lr=1", "--set:1:8: there is no stage `stages.sfd`"),
            (
                "seed.x=1",
                "--set:1:6: `params.seed` is the number `7`, so it has no `x`",
            ),
            ("seed", "--set:1:1: `--set` needs a path and a value"),
            (
                "seed=no",
                "--set:1:6: `no` is a boolean to some readers of YAML and a string to others",
            ),
            ("model..size=1", "--set:1:1: `model..size` is not a dotted name"),
        ] {
            assert_eq!(changed(None, &[option]), Err(vec![message.to_owned()]), "{option}");
        }
        assert_eq!(
            changed(Some("bigg"), &[]),
            Err(vec!["--profile:1:1: there is no profile `bigg`".into()])
        );
    }

    #[test]
    fn a_profile_that_is_not_chosen_is_checked_too() {
        let mut out = Vec::new();
        let root = yaml::parse(&At::whole("p.yaml", PIPELINE), &mut out).expect("YAML");
        check_profiles(&root, &mut out);
        assert_eq!(out[0].help.as_deref(), Some("did you mean `seed`?"));
    }
}
