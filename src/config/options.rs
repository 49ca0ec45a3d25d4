//! Every option there is: its name, what it takes, which programs know it, and whether it does something here.
//!
//! The command line, the environment and the file are read against this one table, so that no option can be
//! ignored in silence: it works, or it is refused, or a warning says why it has no meaning.

use Program::{
    Demote, Export, Follow, Fsck, GenSecret, Import, Init, Passwd, Promote, Reindex, Serve, Verify,
};
use Stand::{Idle, Missing, Works};
use Takes::{Many, Nothing, One};

/// A program of the suite, as far as its options go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Runs a node.
    Serve,
    /// Makes the folder of a node.
    Init,
    /// Makes or checks a secret file.
    GenSecret,
    /// Sets a password.
    Passwd,
    /// Makes a replica the master.
    Promote,
    /// Makes a node follow another one.
    Demote,
    /// Makes a replica follow another master.
    Follow,
    /// Writes an export of a node's folder.
    Export,
    /// Makes a node's folder out of an export.
    Import,
    /// Checks the files of a folder.
    Fsck,
    /// Checks the whole of a folder.
    Verify,
    /// Makes the search index anew.
    Reindex,
}

/// What follows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is there or not.
    Nothing,
    /// One value; the last one given counts.
    One,
    /// A value each time it is given.
    Many,
}

/// Whether an option does something in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It does what it says.
    Works,
    /// It is accepted and has no meaning here, for this reason.
    Idle(&'static str),
    /// It is refused; what to do instead, or empty.
    Missing(&'static str),
}

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// The long name without dashes; also the key in the file.
    pub name: &'static str,
    /// What follows it.
    pub takes: Takes,
    /// The programs that know it.
    pub of: &'static [Program],
    /// Whether it does something.
    pub stand: Stand,
}

impl Opt {
    /// Finds an option of `program` by its long name.
    pub fn find(program: Program, name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|opt| opt.name == name && opt.of.contains(&program))
    }
    /// Whether any program knows this name.
    pub fn is_known(name: &str) -> bool {
        OPTIONS.iter().any(|opt| opt.name == name)
    }
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("DEVPISERVER_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

const ALL: &[Program] = &[
    Serve, Init, GenSecret, Passwd, Promote, Demote, Follow, Export, Import, Fsck, Verify, Reindex,
];
const SERVE: &[Program] = &[Serve];
const NEW: &[Program] = &[Init, Import];
const NODE: &[Program] = &[Serve, Init];
const MASTER_URL: &[Program] = &[Serve, Init, Demote, Verify];
const PROMOTE: &[Program] = &[Promote];
const CHANGE: &[Program] = &[Promote, Demote, Follow, Verify];
const STORAGE: &[Program] =
    &[Serve, Init, Passwd, Promote, Demote, Follow, Export, Import, Fsck, Verify, Reindex];
const LINKS: &[Program] = &[Serve, Export, Import];
const EXPORT: &[Program] = &[Export];
const IMPORT: &[Program] = &[Import];
const FSCK: &[Program] = &[Fsck];
const VERIFY: &[Program] = &[Verify];
const INDEXED: &[Program] = &[Serve, Reindex];
const SECRET: &[Program] = &[Serve, GenSecret];
const SECRET_FILE: &[Program] = &[Serve, GenSecret, Demote, Verify];
const CERT: &[Program] = &[Serve, Demote, Verify];

const fn opt(name: &'static str, takes: Takes, of: &'static [Program], stand: Stand) -> Opt {
    Opt { name, takes, of, stand }
}

/// The table.
pub const OPTIONS: &[Opt] = &[
    opt("configfile", One, ALL, Works),
    opt("debug", Nothing, ALL, Works),
    opt("logger-cfg", One, ALL, Missing("the log goes to stderr; RUST_LOG sets its levels")),
    opt("serverdir", One, STORAGE, Works),
    opt("storage", One, STORAGE, Works),
    opt(
        "keyfs-cache-size",
        One,
        STORAGE,
        Idle("the store reads values directly and sizes its own cache"),
    ),
    opt("role", One, NODE, Works),
    opt("primary-url", One, MASTER_URL, Works),
    opt("master-url", One, MASTER_URL, Works),
    opt("master", One, MASTER_URL, Works),
    opt("version", Nothing, SERVE, Works),
    opt("passwd", One, SERVE, Missing("use `twinpi passwd USER`")),
    opt("host", One, SERVE, Works),
    opt("port", One, SERVE, Works),
    opt("listen", Many, SERVE, Works),
    opt("unix-socket", One, SERVE, Works),
    opt("unix-socket-perms", One, SERVE, Works),
    opt("threads", One, SERVE, Works),
    opt("connection-limit", One, SERVE, Works),
    opt("max-request-body-size", One, SERVE, Works),
    opt("trusted-proxy", One, SERVE, Missing("set --outside-url instead")),
    opt("trusted-proxy-count", One, SERVE, Missing("set --outside-url instead")),
    opt("trusted-proxy-headers", One, SERVE, Missing("set --outside-url instead")),
    opt("outside-url", One, SERVE, Works),
    opt("absolute-urls", Nothing, SERVE, Works),
    opt("enable-core-metadata", Nothing, SERVE, Works),
    opt("profile-requests", One, SERVE, Missing("")),
    opt("mirror-cache-expiry", One, SERVE, Works),
    opt("request-timeout", One, SERVE, Works),
    opt("offline-mode", Nothing, SERVE, Works),
    opt("replica-file-search-path", One, SERVE, Works),
    opt("replica-file-source", One, SERVE, Works),
    opt("hard-links", Nothing, LINKS, Works),
    opt("replicate", One, SERVE, Works),
    opt("bootstrap", One, SERVE, Works),
    opt("files", One, SERVE, Works),
    opt("file-replication-threads", One, SERVE, Works),
    opt("file-replication-skip-indexes", One, SERVE, Works),
    opt("proxy-timeout", One, SERVE, Works),
    opt("replica-cert", One, CERT, Works),
    opt("no-replica-streaming", Nothing, SERVE, Idle("a replica takes what the master offers")),
    opt("secretfile", One, SECRET_FILE, Works),
    opt("argon2-memory-cost", One, SECRET, Works),
    opt("argon2-parallelism", One, SECRET, Works),
    opt("argon2-time-cost", One, SECRET, Works),
    opt("requests-only", Nothing, SERVE, Missing("one process does all the work of a node")),
    opt("restrict-modify", One, SERVE, Works),
    opt("autocreate-users", Nothing, SERVE, Idle("there are no authentication plugins")),
    opt("theme", One, SERVE, Missing("")),
    opt("debug-macros", Nothing, SERVE, Missing("")),
    opt("documentation-path", One, SERVE, Idle("documentation is never unpacked")),
    opt("keep-docs-packed", Nothing, SERVE, Idle("documentation is never unpacked")),
    opt("indexer-backend", One, INDEXED, Idle("there is one search, and it is always on")),
    opt("no-root-pypi", Nothing, NEW, Works),
    opt("root-pypi-url", One, NEW, Works),
    opt("root-passwd", One, NEW, Works),
    opt("root-passwd-hash", One, NEW, Works),
    opt("include-mirrored-files", Nothing, EXPORT, Works),
    opt("skip-import-type", Many, IMPORT, Works),
    opt("no-events", Nothing, IMPORT, Idle("an import has no events to wait for")),
    opt("checksum", Nothing, FSCK, Works),
    opt("no-checksum", Nothing, FSCK, Works),
    opt("plan", Nothing, PROMOTE, Works),
    opt("accept-loss", Nothing, PROMOTE, Works),
    opt("json", Nothing, CHANGE, Works),
    opt("offline", Nothing, VERIFY, Works),
    opt("no-files", Nothing, VERIFY, Works),
    opt("repair", Nothing, VERIFY, Works),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_in_each_program() {
        let of =
            |opt: &'static Opt| opt.of.iter().map(|program| format!("{program:?} {}", opt.name));
        let mut names: Vec<_> = OPTIONS.iter().flat_map(of).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn variable_is_the_name_in_capitals() {
        let opt = Opt::find(Serve, "restrict-modify").unwrap();
        assert_eq!(opt.variable(), "DEVPISERVER_RESTRICT_MODIFY");
        assert!(Opt::find(Passwd, "restrict-modify").is_none());
        assert!(Opt::is_known("restrict-modify") && !Opt::is_known("restrict_modify"));
    }
}
