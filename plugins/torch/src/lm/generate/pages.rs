//! Which pages of the key/value cache are free, who holds the others, and what can be found in them again.
//!
//! A full page is known by the page before it and its own tokens: a prompt that begins like an earlier one, or a node of a
//! search tree beside its siblings, finds the pages of the common beginning and does not compute them again. Such pages
//! outlive the sequences that filled them, until their room is needed: then those go first that were given back longest
//! ago. Only pages that no known page follows are given away, so what is found is always a whole beginning.
//!
//! This file knows pages and tokens; what is in a page is the backend's business.

use std::collections::{BTreeSet, HashMap};

use super::backend::{PAGE_SIZE, PageId};

/// What makes a full page findable: the page before it, and its tokens.
type Key = (Option<PageId>, [i64; PAGE_SIZE]);

/// Returns how many pages hold this many tokens.
pub fn pages_for(num_tokens: usize) -> usize {
    num_tokens.div_ceil(PAGE_SIZE)
}

/// The pages that a backend has room for.
#[derive(Debug, Default)]
pub struct Pages {
    slots: Vec<Slot>,
    free: Vec<PageId>,
    known: HashMap<Key, PageId>,
    /// Known pages that nobody holds and no known page follows, by the time they were given back.
    evictable: BTreeSet<(u64, PageId)>,
    /// Known pages that nobody holds, whether others follow them or not.
    num_idle: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Slot {
    num_holders: u32,
    /// Set while the page is known.
    key: Option<Key>,
    /// Known pages that follow this one.
    num_followers: u32,
    given_back_at: u64,
}

impl Pages {
    /// Returns how many pages there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many pages could be taken without more room.
    pub fn num_available(&self) -> usize {
        self.free.len() + self.num_idle
    }

    /// Returns how many pages nobody holds but may be found again.
    pub fn num_idle(&self) -> usize {
        self.num_idle
    }

    /// Adds room, up to `num_pages` pages altogether.
    pub fn grow(&mut self, num_pages: usize) {
        let first = self.slots.len();
        self.slots.resize_with(num_pages.max(first), Slot::default);
        // The lowest page is taken first.
        self.free
            .splice(0..0, (first..num_pages).rev().map(|page| page as PageId));
    }

    /// Takes a page that holds nothing anyone could find.
    pub fn take_free(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        self.slot(page).num_holders = 1;
        Some(page)
    }

    /// Takes the page whose content was given back longest ago.
    pub fn take_evicted(&mut self) -> Option<PageId> {
        let (_, page) = self.evictable.pop_first()?;
        self.num_idle -= 1;
        let slot = self.slot(page);
        slot.num_holders = 1;
        let key = slot.key.take().expect("only known pages are evictable");
        self.known.remove(&key);
        if let Some(before) = key.0 {
            self.slot(before).num_followers -= 1;
            self.note_if_evictable(before);
        }
        Some(page)
    }

    /// Takes a share in a page that is held or known.
    pub fn hold(&mut self, page: PageId) {
        let slot = self.slot(page);
        slot.num_holders += 1;
        if slot.num_holders == 1 {
            let entry = (slot.given_back_at, page);
            self.evictable.remove(&entry);
            self.num_idle -= 1;
        }
    }

    /// Returns whether only one sequence holds the page, and so may write to it.
    pub fn is_exclusive(&self, page: PageId) -> bool {
        self.slots[page as usize].num_holders == 1
    }

    /// Gives a page back.
    pub fn release(&mut self, page: PageId) {
        self.clock += 1;
        let clock = self.clock;
        let slot = self.slot(page);
        slot.num_holders -= 1;
        if slot.num_holders > 0 {
            return;
        }
        if slot.key.is_none() {
            self.free.push(page);
            return;
        }
        slot.given_back_at = clock;
        self.num_idle += 1;
        self.note_if_evictable(page);
    }

    /// Finds the pages of the longest known beginning of `ids`, and holds them.
    pub fn find(&mut self, ids: &[i64]) -> Vec<PageId> {
        let mut found: Vec<PageId> = Vec::new();
        for tokens in ids.as_chunks::<PAGE_SIZE>().0 {
            let Some(&page) = self.known.get(&(found.last().copied(), *tokens)) else {
                break;
            };
            self.hold(page);
            found.push(page);
        }
        found
    }

    /// Makes a full page known, which follows `before`, and returns the page to go on with: where another sequence has
    /// computed the same meanwhile, that is the other's page, and this one is given back.
    pub fn make_known(&mut self, page: PageId, before: Option<PageId>, tokens: &[i64; PAGE_SIZE]) -> PageId {
        let key = (before, *tokens);
        if let Some(&same) = self.known.get(&key) {
            self.hold(same);
            self.release(page);
            return same;
        }
        self.known.insert(key, page);
        self.slot(page).key = Some(key);
        if let Some(before) = before {
            self.slot(before).num_followers += 1;
        }
        page
    }

    /// Forgets what is in the pages: nothing is found any more.
    pub fn forget(&mut self) {
        self.known.clear();
        self.evictable.clear();
        self.num_idle = 0;
        for (page, slot) in self.slots.iter_mut().enumerate() {
            slot.num_followers = 0;
            if slot.key.take().is_some() && slot.num_holders == 0 {
                self.free.push(page as PageId);
            }
        }
    }

    fn note_if_evictable(&mut self, page: PageId) {
        let slot = &self.slots[page as usize];
        if slot.num_holders == 0 && slot.num_followers == 0 {
            self.evictable.insert((slot.given_back_at, page));
        }
    }

    fn slot(&mut self, page: PageId) -> &mut Slot {
        &mut self.slots[page as usize]
    }
}

#[cfg(test)]
impl Pages {
    /// Asserts that nobody holds a page, and that each is either free or can be found.
    pub fn assert_all_given_back(&self) {
        assert!(self.slots.iter().all(|slot| slot.num_holders == 0), "a page is held");
        let num_known = self.slots.iter().filter(|slot| slot.key.is_some()).count();
        assert_eq!(num_known, self.num_idle);
        assert_eq!(num_known, self.known.len());
        assert_eq!(self.free.len() + num_known, self.slots.len(), "a page is lost");
        let mut free = self.free.clone();
        free.sort_unstable();
        free.dedup();
        assert_eq!(free.len(), self.free.len(), "a page is free twice");
        for (&(before, _), &page) in &self.known {
            assert_eq!(self.slots[page as usize].key.map(|key| key.0), Some(before));
            if let Some(before) = before {
                assert!(
                    self.slots[before as usize].key.is_some(),
                    "what a known page follows is known"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [PageId; 0] = [];

    fn tokens(first: i64) -> Vec<i64> {
        (first..first + PAGE_SIZE as i64).collect()
    }

    fn known(pages: &mut Pages, ids: &[i64]) -> Vec<PageId> {
        let mut list: Vec<PageId> = Vec::new();
        for chunk in ids.as_chunks::<PAGE_SIZE>().0 {
            let page = pages
                .take_free()
                .or_else(|| pages.take_evicted())
                .expect("there is room");
            list.push(pages.make_known(page, list.last().copied(), chunk));
        }
        list
    }

    fn release(pages: &mut Pages, list: &[PageId]) {
        list.iter().for_each(|&page| pages.release(page));
    }

    #[test]
    fn a_beginning_is_found_as_far_as_it_is_known() {
        let mut pages = Pages::default();
        pages.grow(4);
        let ids = [tokens(0), tokens(100)].concat();
        let list = known(&mut pages, &ids);
        release(&mut pages, &list);
        assert_eq!(pages.num_available(), 4);

        let longer = [ids.clone(), tokens(200)].concat();
        assert_eq!(pages.find(&longer), list);
        assert_eq!(pages.num_available(), 2);
        assert_eq!(pages.find(&ids[..PAGE_SIZE + 15]), list[..1]);
        assert_eq!(
            pages.find(&tokens(100)),
            NONE,
            "the same tokens after nothing are another page"
        );
        assert_eq!(pages.find(&ids[..15]), NONE);
        release(&mut pages, &list);
        release(&mut pages, &list[..1]);
        pages.assert_all_given_back();
    }

    #[test]
    fn what_was_given_back_longest_ago_goes_first_and_leaves_before_its_parent() {
        let mut pages = Pages::default();
        pages.grow(3);
        let old = known(&mut pages, &[tokens(0), tokens(1)].concat());
        let young = known(&mut pages, &tokens(2));
        release(&mut pages, &old);
        release(&mut pages, &young);
        assert_eq!(pages.take_free(), None);
        assert_eq!(pages.take_evicted(), Some(old[1]), "a page that others follow stays");
        assert_eq!(pages.take_evicted(), Some(old[0]));
        assert_eq!(pages.find(&tokens(2)), young);
        assert_eq!(pages.take_evicted(), None, "pages that are held stay");
        for page in [old[0], old[1], young[0]] {
            pages.release(page);
        }
        pages.assert_all_given_back();
    }

    #[test]
    fn the_same_page_computed_twice_is_kept_once() {
        let mut pages = Pages::default();
        pages.grow(2);
        let first = known(&mut pages, &tokens(7));
        let second = known(&mut pages, &tokens(7));
        assert_eq!(first, second);
        assert!(!pages.is_exclusive(first[0]));
        assert_eq!(pages.num_available(), 1);
        release(&mut pages, &first);
        let third = known(&mut pages, &tokens(7));
        assert_eq!(third, first);
        release(&mut pages, &first);
        release(&mut pages, &first);
        pages.assert_all_given_back();
        let fourth = known(&mut pages, &tokens(7));
        assert_eq!(fourth, first, "also where nobody held it");
        release(&mut pages, &fourth);
        pages.assert_all_given_back();
    }

    #[test]
    fn nothing_is_found_after_forgetting() {
        let mut pages = Pages::default();
        pages.grow(3);
        let list = known(&mut pages, &[tokens(0), tokens(1)].concat());
        release(&mut pages, &list);
        pages.forget();
        assert_eq!(pages.find(&tokens(0)), NONE);
        assert_eq!((pages.num_available(), pages.num_idle()), (3, 0));
        pages.assert_all_given_back();
    }
}
