//! Who may do what: one decision function (spec/http-api.md section 3).

use std::sync::Arc;

use crate::names::{IndexName, ProjectName, UserName};

use super::index::Index;
use super::tokens::{Grant, Right};

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
    /// A program with an access token of a user: it may do what both the token and its owner may.
    Token(Arc<Grant>),
    /// A replica that proved who it is: it holds all there is and checks its own clients.
    Replica,
}

impl Identity {
    /// The user in whose name something is done; what is allowed does not follow from it.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::User(user) => Some(user),
            Self::Token(grant) => Some(&grant.owner),
            Self::Anonymous | Self::Replica => None,
        }
    }
    /// Whether it may do things with a project: a token may be for some only.
    pub fn is_for(&self, project: &ProjectName) -> bool {
        match self {
            Self::Token(grant) => grant.is_for(project),
            _ => true,
        }
    }
    fn is(&self, user: &UserName) -> bool {
        matches!(self, Self::User(own) if own == user)
    }
    fn is_root(&self) -> bool {
        matches!(self, Self::User(own) if own.is_root())
    }
    /// Whether a list of principals names it.
    pub fn is_in<S: AsRef<str>>(&self, principals: &[S]) -> bool {
        principals.iter().any(|p| match (p.as_ref(), self) {
            (_, Self::Replica) => false,
            (ANONYMOUS, _) | (AUTHENTICATED, Self::User(_)) => true,
            (name, Self::User(user)) => user.as_str() == name,
            (_, Self::Anonymous | Self::Token(_)) => false,
        })
    }
    /// Whether a list has the user's own name in it; the special principals do not count.
    fn is_named_in(&self, principals: &[&str]) -> bool {
        matches!(self, Self::User(own) if principals.contains(&own.as_str()))
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
    /// List, make and revoke a user's access tokens.
    UserTokens(&'a UserName),
    /// Delete a user with all indexes.
    UserDelete(&'a UserName),
    /// Make an index.
    IndexCreate(&'a IndexName),
    /// Change or delete an index.
    IndexModify(&'a IndexName),
    /// Read an index: lists, pages, data, files, documentation; push from it.
    Read(&'a Index),
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
        if let Identity::Token(grant) = who {
            return self.allows_token(grant, what);
        }
        let listed = self.restrict_modify.as_ref().map(|list| who.is_in(list));
        match what {
            Permission::UserCreate => listed.unwrap_or(true),
            Permission::UserModify(user) => listed.unwrap_or_else(|| who.is(user) || who.is_root()),
            Permission::UserPassword(user) | Permission::UserTokens(user) => {
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
            // Who uploads must be able to see what came of it; but "everybody may leave something here" does not
            // mean that everybody may look.
            Permission::Read(index) => {
                *who == Identity::Replica
                    || who.is_in(&index.acl_pkg_read())
                    || who.is(index.name.user())
                    || who.is_root()
                    || who.is_named_in(&index.acl_upload())
            }
            Permission::Upload(index) => who.is_in(&index.acl_upload()),
            Permission::UploadResult(index) => who.is_in(&index.acl_toxresult_upload()),
            Permission::DeleteEntries(index) => {
                who.is_in(&index.acl_upload())
                    || listed.unwrap_or_else(|| who.is(index.name.user()) || who.is_root())
            }
        }
    }

    /// A token never grants more than its owner has, and for reading never less than everybody has.
    fn allows_token(&self, grant: &Grant, what: Permission<'_>) -> bool {
        let (right, index) = match what {
            Permission::Read(index) => (Right::Read, index),
            Permission::Upload(index) | Permission::UploadResult(index) => (Right::Upload, index),
            Permission::UserCreate
            | Permission::UserModify(_)
            | Permission::UserPassword(_)
            | Permission::UserTokens(_)
            | Permission::UserDelete(_)
            | Permission::IndexCreate(_)
            | Permission::IndexModify(_)
            | Permission::DeleteEntries(_) => return false,
        };
        let is_public = !matches!(what, Permission::Upload(_));
        is_public && self.allows(&Identity::Anonymous, what)
            || grant.has(right, &index.name)
                && self.allows(&Identity::User(grant.owner.clone()), what)
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
    fn readers_are_those_listed_the_owner_root_and_named_uploaders() {
        let policy = Policy { restrict_modify: Some(Vec::new()) };
        let name = IndexName::new("ann", "dev").expect("valid");
        let mut index = Index { name, config: crate::store::record::Dict::new() };
        let may = |who: &Identity, index: &Index| policy.allows(who, Permission::Read(index));
        let [ann, bob, eve, root] = ["ann", "bob", "eve", "root"].map(|n| Identity::User(user(n)));
        assert!(index.is_open() && may(&Identity::Anonymous, &index));
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        index.config.set("acl_pkg_read", list(&[]));
        index.config.set("acl_upload", list(&["bob", ANONYMOUS, AUTHENTICATED]));
        assert!(!index.is_open());
        let may_all = [&ann, &bob, &eve, &root, &Identity::Anonymous, &Identity::Replica]
            .map(|who| may(who, &index));
        assert_eq!(may_all, [true, true, false, true, false, true]);
        index.config.set("acl_pkg_read", list(&["eve"]));
        assert!(may(&eve, &index) && !may(&Identity::Anonymous, &index));
        index.config.set("acl_pkg_read", list(&[AUTHENTICATED]));
        assert!(may(&eve, &index) && !may(&Identity::Anonymous, &index));
        assert!(!policy.allows(&Identity::Replica, Permission::Upload(&index)));
    }

    #[test]
    fn anonymous_and_authenticated_are_principals() {
        let ann = Identity::User(user("ann"));
        assert!(Identity::Anonymous.is_in(&[ANONYMOUS]) && ann.is_in(&[ANONYMOUS]));
        assert!(!Identity::Anonymous.is_in(&[AUTHENTICATED]) && ann.is_in(&[AUTHENTICATED]));
        assert!(ann.is_in(&["ann"]) && !ann.is_in(&["bob"]));
    }
}
