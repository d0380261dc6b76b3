//! Where parts of messages stand in the text of a conversation: wrong attempts that are masked, steps that are judged.
//!
//! A template may trim a message, move it or write it twice, so looking for its content in the text would guess. Instead
//! the conversation is rendered once more with marks around the parts, which must change nothing else.

use std::ops::Range;

use serde_json::Value as Json;

use super::{ChatOptions, ChatTemplate, cut_marks};
use crate::lm::LmError;

/// No characters, so that no text has a right to them; others than those of generation blocks.
const RANGE_MARKS: [char; 2] = ['\u{fdd2}', '\u{fdd3}'];

impl ChatTemplate {
    /// Returns the text of a conversation and where in it the given byte ranges of the contents of messages stand.
    ///
    /// `ranges` has those of each message, in order and apart from each other. Their places come back in one list; white
    /// space at the ends of a content, which templates trim, belongs to none, and what is empty then has the place `0..0`.
    ///
    /// # Errors
    /// A range does not fit its content, or the template refuses the messages or does not write a content as it is.
    pub fn render_with_ranges(
        &self,
        messages: &[Json],
        ranges: &[Vec<Range<usize>>],
        options: &ChatOptions,
    ) -> Result<(String, Vec<Range<usize>>), LmError> {
        let text = self.render(messages, options)?.text;
        let mut marked = messages.to_vec();
        let mut is_marked = Vec::new();
        for (idx, (message, ranges)) in marked.iter_mut().zip(ranges).enumerate() {
            if ranges.is_empty() {
                continue;
            }
            let content = message.get_mut("content");
            let Some(Json::String(content)) = content else {
                return Err(LmError::Template(format!(
                    "the content of message {} is not a text",
                    idx + 1
                )));
            };
            let parts = within(content, ranges).map_err(|what| {
                LmError::Template(format!("message {}, of {} bytes: {what}", idx + 1, content.len()))
            })?;
            *content = with_marks(content, &parts);
            is_marked.extend(parts.iter().map(|part| !part.is_empty()));
        }
        let num_marked = is_marked.iter().filter(|&&it| it).count();
        if num_marked == 0 {
            return Ok((text, vec![0..0; is_marked.len()]));
        }
        let (again, found) = cut_marks(&self.render(&marked, options)?.text, RANGE_MARKS);
        if again != text || found.len() != num_marked {
            return Err(LmError::Template(
                "parts of a message (masked ranges, or steps) have no place in the text, because the template does not \
                 write the message as it is"
                    .to_owned(),
            ));
        }
        let mut found = found.into_iter();
        let places = is_marked
            .into_iter()
            .map(|it| it.then(|| found.next()).flatten().unwrap_or(0..0));
        Ok((text, places.collect()))
    }
}

/// Returns the ranges without the white space at the ends of `content`.
fn within(content: &str, ranges: &[Range<usize>]) -> Result<Vec<Range<usize>>, String> {
    if content.contains(RANGE_MARKS) {
        return Err("it has U+FDD2 or U+FDD3, which are no characters and stand for the ends of a range".to_owned());
    }
    let start = content.len() - content.trim_start().len();
    let end = content.trim_end().len();
    let mut from = 0;
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        // Also where the range is out of the text, or splits a character.
        if range.start < from || range.end < range.start || content.get(range.clone()).is_none() {
            return Err(format!(
                "[{}, {}] is not a range of whole characters behind the one before it",
                range.start, range.end
            ));
        }
        from = range.end;
        let (first, last) = (range.start.max(start), range.end.min(end));
        parts.push(if first < last { first..last } else { 0..0 });
    }
    Ok(parts)
}

fn with_marks(content: &str, parts: &[Range<usize>]) -> String {
    let mut marked = String::with_capacity(content.len() + 6 * parts.len());
    let mut from = 0;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        marked.push_str(&content[from..part.start]);
        marked.push(RANGE_MARKS[0]);
        marked.push_str(&content[part.clone()]);
        marked.push(RANGE_MARKS[1]);
        from = part.end;
    }
    marked.push_str(&content[from..]);
    marked
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, some of which have one")]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Map, json};

    use super::*;

    fn render(template: &str, content: &str, ranges: &[Range<usize>]) -> Result<(String, Vec<Range<usize>>), String> {
        let templates = BTreeMap::from([("default".to_owned(), template.to_owned())]);
        let template = ChatTemplate::new(templates, Map::new()).unwrap();
        let messages = [
            json!({"role": "user", "content": "ab ab"}),
            json!({"role": "assistant", "content": content}),
        ];
        template
            .render_with_ranges(&messages, &[Vec::new(), ranges.to_vec()], &ChatOptions::default())
            .map_err(|error| error.to_string())
    }

    const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";

    #[test]
    fn ranges_are_found_where_the_same_words_stand_before() {
        let (text, places) = render(PLAIN, "  äb ab\n", &[0..5, 6..9]).unwrap();
        assert_eq!(text, "<user>ab ab</><assistant>äb ab</>");
        let parts: Vec<&str> = places.iter().map(|place| &text[place.clone()]).collect();
        assert_eq!(parts, ["äb", "ab"]);
        assert!(places.iter().all(|place| place.start > 20));
    }

    #[test]
    fn ranges_that_touch_or_hold_nothing_keep_their_number() {
        let (text, places) = render(PLAIN, "abcd  ", &[0..2, 2..2, 2..4, 4..6]).unwrap();
        let parts: Vec<&str> = places.iter().map(|place| &text[place.clone()]).collect();
        assert_eq!(parts, ["ab", "", "cd", ""]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (content, ranges, expected) in [
            ("abc", vec![1..4], "[1, 4] is not a range"),
            ("äb", vec![1..3], "[1, 3] is not a range"),
            ("abc", vec![1..2, 0..1], "[0, 1] is not a range"),
            ("a\u{fdd2}c", vec![0..1], "U+FDD2"),
        ] {
            let error = render(PLAIN, content, &ranges).unwrap_err();
            assert!(error.contains(expected) && error.contains("message 2"), "{error}");
        }
        for template in ["{{ messages[1].content[:2] }}", "{{ messages[1].content | length }}"] {
            let error = render(template, "abcd", &[1..3]).unwrap_err();
            assert!(error.contains("does not write the message as it is"), "{error}");
        }
    }

    #[test]
    fn generation_blocks_keep_their_own_marks() {
        let template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}.{% endfor %}";
        let (text, places) = render(template, "abcd", &[1..3]).unwrap();
        assert_eq!((text.as_str(), places.as_slice()), ("ab ab.abcd.", &[7..9][..]));
    }
}
