//! Who may do what: one decision function (spec/http-api.md section 3).

use crate::names::{IndexName, UserName};

use super::index::Index;

/// Everybody, logged in or not.
pub const ANONYMOUS: &str = ":ANONYMOUS:";

/// Everybody who is logged in.
pub const AUTHENTICATED: &str = ":AUTHENTICATED:";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// A user who gave a valid password or token.
    User(UserName),
}

impl Identity {
    /// The user, if it is one.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::User(user) => Some(user),
            Self::Anonymous => None,
        }
    }
    fn is(&self, user: &UserName) -> bool {
        self.user() == Some(user)
    }
    fn is_root(&self) -> bool {
        self.user().is_some_and(UserName::is_root)
    }
    /// Whether a list of principals names it.
    pub fn is_in<S: AsRef<str>>(&self, principals: &[S]) -> bool {
        principals.iter().any(|p| match (p.as_ref(), self) {
            (ANONYMOUS, _) | (AUTHENTICATED, Self::User(_)) => true,
            (name, Self::User(user)) => user.as_str() == name,
            (_, Self::Anonymous) => false,
        })
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Permission<'a> {
    /// Make a user.
    UserCreate,
    /// Change a user's record.
    UserModify(&'a UserName),
    /// Change a user's password and nothing else.
    UserPassword(&'a UserName),
    /// Delete a user with all indexes.
    UserDelete(&'a UserName),
    /// Make an index.
    IndexCreate(&'a IndexName),
    /// Change or delete an index.
    IndexModify(&'a IndexName),
    /// Upload to an index, or push to it.
    Upload(&'a Index),
    /// Upload a test result to an index.
    UploadResult(&'a Index),
    /// Delete files, versions and projects of an index.
    DeleteEntries(&'a Index),
}

/// The server's own rule: `--restrict-modify`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// When given, only these principals may make or change users and indexes.
    pub restrict_modify: Option<Vec<String>>,
}

impl Policy {
    /// Whether `who` may do `what`.
    pub fn allows(&self, who: &Identity, what: Permission<'_>) -> bool {
        let listed = self.restrict_modify.as_ref().map(|list| who.is_in(list));
        match what {
            Permission::UserCreate => listed.unwrap_or(true),
            Permission::UserModify(user) => listed.unwrap_or_else(|| who.is(user) || who.is_root()),
            Permission::UserPassword(user) => {
                who.is(user) || listed.unwrap_or_else(|| who.is_root())
            }
            Permission::UserDelete(user) if user.is_root() => false,
            Permission::UserDelete(user) => match listed {
                Some(listed) => listed && !who.is(user),
                None => who.is(user) || who.is_root(),
            },
            Permission::IndexCreate(index) | Permission::IndexModify(index) => {
                listed.unwrap_or_else(|| who.is(index.user()) || who.is_root())
            }
            Permission::Upload(index) => who.is_in(&index.acl_upload()),
            Permission::UploadResult(index) => who.is_in(&index.acl_toxresult_upload()),
            Permission::DeleteEntries(index) => {
                who.is_in(&index.acl_upload())
                    || listed.unwrap_or_else(|| who.is(index.name.user()) || who.is_root())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::parse(name).expect("valid")
    }

    #[test]
    fn root_may_not_be_deleted_and_others_by_themselves_or_root() {
        let (ann, root) = (user("ann"), UserName::root());
        let open = Policy::default();
        let may = |who: &UserName, whom| {
            open.allows(&Identity::User(who.clone()), Permission::UserDelete(whom))
        };
        assert!(may(&ann, &ann) && may(&root, &ann));
        assert!(!may(&root, &root) && !may(&ann, &root) && !may(&user("bob"), &ann));
    }

    #[test]
    fn a_restricted_server_asks_the_list_alone() {
        let closed = Policy { restrict_modify: Some(vec!["boss".into()]) };
        let (ann, boss) = (Identity::User(user("ann")), Identity::User(user("boss")));
        let index = IndexName::new("ann", "dev").expect("valid");
        assert!(!closed.allows(&ann, Permission::IndexCreate(&index)));
        assert!(closed.allows(&boss, Permission::IndexCreate(&index)));
        assert!(closed.allows(&ann, Permission::UserPassword(&user("ann"))));
        assert!(!closed.allows(&Identity::Anonymous, Permission::UserCreate));
        assert!(!closed.allows(&boss, Permission::UserDelete(&user("boss"))));
    }

    #[test]
    fn anonymous_and_authenticated_are_principals() {
        let ann = Identity::User(user("ann"));
        assert!(Identity::Anonymous.is_in(&[ANONYMOUS]) && ann.is_in(&[ANONYMOUS]));
        assert!(!Identity::Anonymous.is_in(&[AUTHENTICATED]) && ann.is_in(&[AUTHENTICATED]));
        assert!(ann.is_in(&["ann"]) && !ann.is_in(&["bob"]));
    }
}
