//! Profiles by the names that people type.
//!
//! A profile has two names: as typed (`PROF_A_B`, shown everywhere) and as stored (`prof-a-b-…`, in keys and
//! endpoints). Normalising a stored name gives that name again, so one look-up answers both forms.

use std::collections::BTreeMap;

use calico_model::{Profile, ProfileName, ProfileSpec, normalise};
use calico_store::Store;

use crate::{context::Context, failure::Failure};

/// A profile as a person named it; whether it exists is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As typed.
    pub(crate) word: String,
    /// The key's last segment.
    pub(crate) stored: String,
}

impl Wanted {
    /// Takes a typed or a stored name.
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub(crate) fn parse(word: &str) -> Result<Self, Failure> {
        match ProfileName::typed(word) {
            Ok(name) => Ok(Self { word: word.to_owned(), stored: name.as_stored().to_owned() }),
            // A v3 name may be longer than what people may type for a new profile.
            Err(_) if !word.is_empty() && word.len() <= 253 && normalise(word) == word => {
                Ok(Self { word: word.to_owned(), stored: word.to_owned() })
            }
            Err(error) => Err(bad_name(&error)),
        }
    }

    /// All of several names, or all that is wrong with them.
    ///
    /// # Errors
    /// Each bad name; else each that is there twice, in either form.
    pub(crate) fn parse_all(words: &[String]) -> Result<Vec<Self>, Failure> {
        let (mut wanted, mut faults): (Vec<Self>, Vec<String>) = (Vec::new(), Vec::new());
        for word in words {
            match Self::parse(word) {
                Ok(profile) => wanted.push(profile),
                Err(failure) => faults.push(failure.one_line()),
            }
        }
        if !faults.is_empty() {
            return Err(Failure::all(faults).hint(NAME_HINT));
        }
        for (index, profile) in wanted.iter().enumerate() {
            if wanted[..index].iter().any(|earlier| earlier.stored == profile.stored) {
                return Err(Failure::new(format!("Profile with name {} was specified more than once.", profile.word)));
            }
        }
        Ok(wanted)
    }

    /// The profile, `None` if there is none of the name.
    ///
    /// # Errors
    /// Those of the datastore.
    pub(crate) async fn look_up(&self, store: &Store) -> Result<Option<Profile>, Failure> {
        match store.get::<ProfileSpec>(&self.stored).await {
            Ok(profile) => Ok(Some(profile)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

const NAME_HINT: &str = "profile names are letters, digits, dots, dashes and underscores, at most 63, with a letter or \
                         digit at both ends";

/// The refusal of a name.
pub(crate) fn bad_name(error: &calico_model::NameError) -> Failure {
    Failure::new(format!("Profile name {:?} is not valid: {}.", error.name, error.reason)).hint(NAME_HINT)
}

/// The typed names of all stored profiles, to show.
#[derive(Debug, Default)]
pub(crate) struct TypedNames(BTreeMap<String, String>);

impl TypedNames {
    /// Reads the names of all profiles.
    ///
    /// # Errors
    /// Those of the datastore.
    pub(crate) async fn read(ctx: &Context) -> Result<Self, Failure> {
        let (profiles, unreadable) = ctx.store.list::<ProfileSpec>().await?;
        ctx.note_unreadable(&unreadable);
        let names = profiles.iter().map(|profile| {
            let name = profile.profile_name();
            (name.as_stored().to_owned(), name.as_typed().to_owned())
        });
        Ok(Self(names.collect()))
    }

    /// What a person sees for a stored name; one without a profile is shown as it is stored.
    pub(crate) fn shown<'a>(&'a self, stored: &'a str) -> &'a str {
        self.0.get(stored).map_or(stored, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_are_one_profile() {
        let typed = Wanted::parse("PROF_A_B").unwrap();
        let stored = Wanted::parse(&typed.stored).unwrap();
        assert_eq!(typed.stored, stored.stored);
        let both = [typed.word, stored.word];
        let failure = Wanted::parse_all(&both).unwrap_err();
        assert!(failure.message().contains("was specified more than once"), "{failure}");
    }

    #[test]
    fn v3_names_that_nobody_could_type_are_found_too() {
        let long = format!("kns.{}", "x".repeat(80));
        assert_eq!(Wanted::parse(&long).unwrap().stored, long);
    }

    #[test]
    fn every_bad_name_is_told() {
        let words = ["good".to_owned(), "bad name".to_owned(), "_x".to_owned()];
        let text = Wanted::parse_all(&words).unwrap_err().to_string();
        assert!(text.contains("\"bad name\"") && text.contains("\"_x\"") && !text.contains("\"good\""), "{text}");
    }
}
