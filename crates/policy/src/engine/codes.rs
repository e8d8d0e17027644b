//! Rule lists, each kept once however many policies and profiles have it, and turned into sets while any is in use.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;

use super::doubts::Doubts;
use crate::{
    compile::{Code, PackedCode},
    index::{Arena, Hashing, Index, SetHandle, number_of},
    instruction::RuleSet,
};

/// A rule list that is kept; [`Codes::release`] gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CodeId(u32);

struct Entry {
    code: PackedCode,
    holders: u32,
    links: u32,
    linked: Option<Box<Linked>>,
}

struct Linked {
    rules: Arc<RuleSet>,
    sets: Vec<SetHandle>,
    /// Why the rules deny everything although the code is clear.
    doubt: Option<Arc<str>>,
}

/// What the dataplane gets of a rule list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Link {
    pub(super) rules: Arc<RuleSet>,
    pub(super) doubt: Option<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Codes {
    slab: Arena<Entry>,
    by_content: HashTable<u32>,
    hasher: Hashing,
}

impl Codes {
    /// Keeps a rule list, or one more holder of it.
    pub(super) fn keep(&mut self, code: &Code) -> CodeId {
        let code = PackedCode::new(code);
        let hash = self.hasher.hash_one(&code);
        if let Some(&number) = self.by_content.find(hash, |&number| self.slab[number as usize].code == code) {
            self.slab[number as usize].holders += 1;
            return CodeId(number);
        }
        let number = number_of(self.slab.insert(Entry { code, holders: 1, links: 0, linked: None }));
        let rehash = |&number: &u32| self.hasher.hash_one(&self.slab[number as usize].code);
        self.by_content.insert_unique(hash, number, rehash);
        CodeId(number)
    }

    /// One more holder of a list that is kept.
    pub(super) fn hold(&mut self, id: CodeId) -> CodeId {
        self.slab[id.0 as usize].holders += 1;
        id
    }

    /// Gives a rule list back that is not linked on behalf of the holder any more.
    pub(super) fn release(&mut self, id: CodeId) {
        let entry = &mut self.slab[id.0 as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let entry = self.slab.remove(id.0 as usize);
        let hash = self.hasher.hash_one(&entry.code);
        if let Ok(found) = self.by_content.find_entry(hash, |&number| number == id.0) {
            found.remove();
        }
    }

    /// The rules for the dataplane; their sets exist until [`unlink`](Self::unlink), once for each call of this. The
    /// list has one more holder as long.
    pub(super) fn link(&mut self, id: CodeId, index: &mut Index, doubts: &Doubts) -> Link {
        let entry = &mut self.slab[id.0 as usize];
        entry.links += 1;
        entry.holders += 1;
        let Entry { code, linked, .. } = entry;
        let linked = linked.get_or_insert_with(|| Box::new(linked_now(&code.unpack(), index, doubts)));
        Link { rules: linked.rules.clone(), doubt: linked.doubt.clone() }
    }

    /// Ends what [`link`](Self::link) began.
    pub(super) fn unlink(&mut self, id: CodeId, index: &mut Index) {
        let entry = &mut self.slab[id.0 as usize];
        entry.links -= 1;
        if entry.links == 0
            && let Some(linked) = entry.linked.take()
        {
            linked.sets.into_iter().for_each(|set| index.release(set));
        }
        self.release(id);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len() + self.by_content.len()
    }

    /// Looks at all linked lists again after the doubts have changed.
    pub(super) fn doubt(&mut self, index: &mut Index, doubts: &Doubts) {
        for entry in self.slab.values_mut() {
            if let Some(before) = entry.linked.take() {
                entry.linked = Some(Box::new(linked_now(&entry.code.unpack(), index, doubts)));
                before.sets.into_iter().for_each(|set| index.release(set));
            }
        }
    }
}

fn linked_now(code: &Code, index: &mut Index, doubts: &Doubts) -> Linked {
    if let Some(doubt) = doubts.about(code, index) {
        let rules = Code::closed().link(|_, _| unreachable!("it has no conditions"));
        return Linked { rules: Arc::new(rules), sets: Vec::new(), doubt: Some(doubt.into()) };
    }
    let mut sets = Vec::new();
    let rules = code.link(|selector, ports| {
        let set = index.acquire(selector, ports);
        let id = index.id(&set).clone();
        sets.push(set);
        id
    });
    Linked { rules: Arc::new(rules), sets, doubt: None }
}
