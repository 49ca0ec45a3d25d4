//! The commands as typed by the user.

use argh::FromArgs;

use crate::config::settings::Given;

/// Values of one field under their option's name.
trait Values {
    fn values(self) -> Vec<String>;
}

impl Values for Option<String> {
    fn values(self) -> Vec<String> {
        self.into_iter().collect()
    }
}

impl Values for Vec<String> {
    fn values(self) -> Vec<String> {
        self
    }
}

/// Defines a command whose options all arrive as text, by name; `config` makes sense of them.
macro_rules! command {
    (
        $(#[$meta:meta])* $name:ident
        options { $($(#[$option:meta])* $field:ident: $wrap:ident;)* }
        switches { $($(#[$switch:meta])* $flag:ident;)* }
        positional { $($(#[$positional:meta])* $place:ident;)? }
    ) => {
        #[derive(FromArgs, Debug)]
        $(#[$meta])*
        pub struct $name {
            $(#[argh(option)] $(#[$option])* pub $field: $wrap<String>,)*
            $(#[argh(switch)] $(#[$switch])* pub $flag: bool,)*
            $(#[argh(positional)] $(#[$positional])* pub $place: Option<String>,)?
        }

        impl $name {
            /// What was typed, by option name.
            pub fn given(self) -> Given {
                let mut given = Given::new();
                $(given.insert(stringify!($field).replace('_', "-"), self.$field.values());)*
                $(if self.$flag {
                    given.insert(stringify!($flag).replace('_', "-"), vec!["true".to_owned()]);
                })*
                given.retain(|_, values| !values.is_empty());
                given
            }
        }
    };
}

command! {
    /// Runs a node: a package index for pip, twine, uv, poetry and devpi-client, alone, as a master that replicas
    /// follow, or as a replica. It stays in the foreground and ends on SIGTERM.
    #[argh(subcommand, name = "serve", help_triggers("-h", "--help"), usage = "[options]")]
    #[argh(example = "A node of its own:\n\
        {command_name} --serverdir /srv/index --port 3141\n\
        \n\
        A master, and a replica on another machine that has a copy of the secret file:\n\
        {command_name} --serverdir /srv/index --role master --secretfile /etc/index/secret --host 0.0.0.0\n\
        {command_name} --serverdir /srv/index --master-url http://master:3141 --secretfile /etc/index/secret")]
    #[argh(note = "The folder must have been made by init. Each option can also be given as --name=value, as a variable\n\
        (--outside-url is DEVPISERVER_OUTSIDE_URL) or as a key in a YAML file, section devpi-server.\n\
        The command line counts before the variable, the variable before the file.")]
    Serve
    options {
        /// YAML file with options (default: devpi-server/devpi-server.yml below the user's or the site's config folder)
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        /// auto, standalone, master (or primary), replica (default: auto: as before; replica if a master is named;
        /// master must be asked for at each start)
        role: Option;
        /// the master to follow (also --primary-url, --master)
        master_url: Option;
        #[argh(hidden_help)]
        /// the same
        primary_url: Option;
        #[argh(hidden_help)]
        /// the same
        master: Option;
        /// file with the secret that all nodes share; see gen-secret
        secretfile: Option;
        /// name or address to listen on (default: localhost)
        host: Option;
        /// port to listen on (default: 3141)
        port: Option;
        /// HOST:PORT to listen on instead of --host and --port; * is every interface; may be repeated
        listen: Vec;
        /// unix socket to listen on
        unix_socket: Option;
        /// permissions of the unix socket (default: 600)
        unix_socket_perms: Option;
        /// address under which clients reach this node, if something stands in front of it
        outside_url: Option;
        /// who may change users and indexes: names and :groups with commas between (default: all may create)
        restrict_modify: Option;
        /// requests that wait for another machine at a time (default: 50)
        threads: Option;
        /// connections at a time (default: 1024)
        connection_limit: Option;
        /// bytes of the largest upload (default: 1073741824)
        max_request_body_size: Option;
        /// seconds that a change may take through a replica (default: 30)
        proxy_timeout: Option;
        /// downloads from the master at a time (default: 5)
        file_replication_threads: Option;
        /// indexes, types of index, or all: files that a replica fetches only when asked for
        file_replication_skip_indexes: Option;
        /// user/index,...: what a replica takes over of its master's indexes (default: all); for the life of its folder
        replicate: Option;
        /// auto, snapshot or log: what a fresh replica begins with (default: auto: a snapshot if the log is long)
        bootstrap: Option;
        /// all, on-demand (files that clients ask for stay) or none (they are passed through; default: all)
        files: Option;
        /// folder with files of another server, or an export, in which a replica looks before it asks its master
        replica_file_search_path: Option;
        /// URLs of other replicas, with commas between: asked for files that the master does not give
        replica_file_source: Option;
        /// certificate and key (PEM) that a replica shows to its master
        replica_cert: Option;
        /// seconds that an upstream index may stay silent (default: 5)
        request_timeout: Option;
        /// seconds for which a mirrored page counts as fresh (default: 1800)
        mirror_cache_expiry: Option;
        #[argh(hidden_help)]
        /// memory of the key derivation in KiB
        argon2_memory_cost: Option;
        #[argh(hidden_help)]
        /// lanes of the key derivation
        argon2_parallelism: Option;
        #[argh(hidden_help)]
        /// passes of the key derivation
        argon2_time_cost: Option;
    }
    switches {
        /// write absolute links on simple pages
        absolute_urls;
        /// offer the metadata of wheels on simple pages
        enable_core_metadata;
        /// files found in --replica-file-search-path get a second name here instead of a copy
        hard_links;
        /// never ask an upstream index
        offline_mode;
        /// log details
        debug;
        /// print the version and exit
        version;
    }
    positional {}
}

command! {
    /// Makes the folder of a new node, with the user root and, unless told not to, the mirror index root/pypi.
    #[argh(subcommand, name = "init", help_triggers("-h", "--help"), usage = "[options]")]
    #[argh(example = "{command_name} --serverdir /srv/index --no-root-pypi --root-passwd SECRET\n\
        {command_name} --serverdir /srv/index --root-pypi-url https://packages.example.org/simple/\n\
        {command_name} --serverdir /srv/index --role replica --master-url http://master:3141")]
    #[argh(note = "root/pypi mirrors --root-pypi-url, else the index that pip uses on this machine. A replica gets all its\n\
        users and indexes from its master.")]
    Init
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the folder to make (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        /// auto, standalone, master (or primary), replica (default: auto)
        role: Option;
        /// the master to follow (also --primary-url, --master)
        master_url: Option;
        #[argh(hidden_help)]
        /// the same
        primary_url: Option;
        #[argh(hidden_help)]
        /// the same
        master: Option;
        /// password of root (default: empty)
        root_passwd: Option;
        /// password of root as an argon2 hash
        root_passwd_hash: Option;
        /// index that root/pypi mirrors (default: what pip uses)
        root_pypi_url: Option;
    }
    switches {
        /// make no root/pypi
        no_root_pypi;
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Makes the secret file that nodes share and that login tokens are signed with, or checks the one that is there.
    #[argh(subcommand, name = "gen-secret", help_triggers("-h", "--help"), usage = "--secretfile FILE")]
    #[argh(note = "The file is made readable for its owner only; its folder must not be writable by others.")]
    GenSecret
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the file to make or to check
        secretfile: Option;
        #[argh(hidden_help)]
        /// memory of the key derivation in KiB
        argon2_memory_cost: Option;
        #[argh(hidden_help)]
        /// lanes of the key derivation
        argon2_parallelism: Option;
        #[argh(hidden_help)]
        /// passes of the key derivation
        argon2_time_cost: Option;
    }
    switches {
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Sets a user's password directly in a node's folder. The password is asked for twice; where there is no terminal,
    /// two lines are read from standard input.
    #[argh(subcommand, name = "passwd", help_triggers("-h", "--help"), usage = "[options] [USER]")]
    #[argh(note = "The node should not be running.")]
    Passwd
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
    }
    switches {
        /// log details
        debug;
    }
    positional {
        /// whose password to set; asked for if not given
        user;
    }
}

command! {
    /// Makes a replica the master: it takes changes from then on, other replicas can follow it, and the former master is
    /// told that it is replaced. With --plan it only tells what would be lost.
    #[argh(subcommand, name = "promote", help_triggers("-h", "--help"), usage = "[--plan] [options]")]
    #[argh(example = "{command_name} --serverdir /srv/index --plan\n\
        {command_name} --serverdir /srv/index")]
    #[argh(note = "Run it on the replica's machine, as the user who owns the folder; whether the node runs or not. A running one\n\
        changes its role within the process. Its old options may stay for now: they do not turn it back.")]
    Promote
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
    }
    switches {
        /// tell what it would cost, and do nothing
        plan;
        /// do it also if changes of the master are known to be lost by it
        accept_loss;
        /// print JSON
        json;
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Makes a node follow another one, whatever it was: a former master, or a replica whose history went another way.
    /// What this node alone has is saved in a folder below its own and taken back.
    #[argh(subcommand, name = "demote", help_triggers("-h", "--help"), usage = "--primary-url URL [options]")]
    #[argh(example = "{command_name} --serverdir /srv/index --primary-url http://new-master:3141 --secretfile /etc/index/secret")]
    #[argh(note = "Run it on the node's machine, as the user who owns the folder; whether the node runs or not.")]
    Demote
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        /// the node to follow (also --master-url, --master)
        primary_url: Option;
        #[argh(hidden_help)]
        /// the same
        master_url: Option;
        #[argh(hidden_help)]
        /// the same
        master: Option;
        /// file with the secret that all nodes share; a running node has it already
        secretfile: Option;
        /// certificate and key (PEM) to show to the other node
        replica_cert: Option;
    }
    switches {
        /// print JSON
        json;
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Makes a replica follow another node from now on: a master that was promoted, or another replica. Nothing is copied
    /// anew: it goes on where it is.
    #[argh(subcommand, name = "follow", help_triggers("-h", "--help"), usage = "[options] URL")]
    #[argh(example = "{command_name} --serverdir /srv/index http://new-master:3141")]
    Follow
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
    }
    switches {
        /// print JSON
        json;
        /// log details
        debug;
    }
    positional {
        /// the node to follow
        url;
    }
}

command! {
    /// Writes all that a node holds as an export, which import and devpi-import read: users, indexes, metadata and files.
    #[argh(subcommand, name = "export", help_triggers("-h", "--help"), usage = "[options] DIRECTORY")]
    #[argh(example = "{command_name} --serverdir /srv/index /backup/export")]
    #[argh(note = "The node may run: what is written is the state at one serial. Access tokens are left out.")]
    Export
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
    }
    switches {
        /// write the files that mirrors hold, too
        include_mirrored_files;
        /// link files instead of copying them, where the file system allows it
        hard_links;
        /// log details
        debug;
    }
    positional {
        /// the folder to write; empty or not there
        directory;
    }
}

command! {
    /// Makes a new node's folder out of an export of devpi-server or of this program.
    #[argh(subcommand, name = "import", help_triggers("-h", "--help"), usage = "[options] DIRECTORY")]
    #[argh(example = "{command_name} --serverdir /srv/index --no-root-pypi /backup/export")]
    #[argh(note = "Each file is checked against its digests. An import that did not end leaves a folder that no node starts in:\n\
        remove it and import again.")]
    Import
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        /// password of root, unless the export has one (default: empty)
        root_passwd: Option;
        /// password of root as an argon2 hash, unless the export has one
        root_passwd_hash: Option;
        /// index that root/pypi mirrors, unless the export says so (default: what pip uses)
        root_pypi_url: Option;
        /// type of index to leave out; may be repeated
        skip_import_type: Vec;
    }
    switches {
        /// make no root/pypi
        no_root_pypi;
        /// link files instead of copying them, where the file system allows it
        hard_links;
        /// log details
        debug;
    }
    positional {
        /// the folder with the export
        directory;
    }
}

command! {
    /// Checks that each file is in place and has the digest that its record names.
    #[argh(subcommand, name = "fsck", help_triggers("-h", "--help"), usage = "[options]")]
    #[argh(note = "The exit status is 1 if something is wrong. The node may run. verify checks more.")]
    Fsck
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
    }
    switches {
        /// compare digests (the default)
        checksum;
        /// only look whether the files are there
        no_checksum;
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Makes the search index of a folder anew, in which no node runs. A node keeps its index up to date by itself, and makes
    /// one that is damaged anew too.
    #[argh(subcommand, name = "reindex", help_triggers("-h", "--help"), usage = "[options]")]
    Reindex
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        #[argh(hidden_help)]
        /// has no meaning here
        indexer_backend: Option;
    }
    switches {
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Checks a node's folder: the log with its chain, each value against the log, each file against its record, and the
    /// history against that of the master.
    #[argh(subcommand, name = "verify", help_triggers("-h", "--help"), usage = "[options]")]
    #[argh(example = "{command_name} --serverdir /srv/index --secretfile /etc/index/secret\n\
        {command_name} --serverdir /srv/index --offline --repair")]
    #[argh(note = "The exit status is 1 if something is wrong. The node may run, unless --repair is given.")]
    Verify
    options {
        /// YAML file with options
        #[argh(short = 'c')]
        configfile: Option;
        /// the node's folder (default: ~/.devpi/server)
        serverdir: Option;
        /// storage backend; sqlite is the only one
        storage: Option;
        /// the master to compare with (default: the one that the replica follows; also --primary-url, --master-url)
        master: Option;
        #[argh(hidden_help)]
        /// the same
        primary_url: Option;
        #[argh(hidden_help)]
        /// the same
        master_url: Option;
        /// file with the secret that all nodes share
        secretfile: Option;
        /// certificate and key (PEM) to show to the master
        replica_cert: Option;
    }
    switches {
        /// ask no master
        offline;
        /// do not look at the files
        no_files;
        /// have what is missing or broken fetched again at the next start
        repair;
        /// print JSON
        json;
        /// log details
        debug;
    }
    positional {}
}

command! {
    /// Writes files for nginx, systemd, supervisor, launchd and cron into the folder gen-config, made for one node's options.
    #[argh(subcommand, name = "gen-config", help_triggers("-h", "--help"), usage = "[options of serve]")]
    #[argh(example = "{command_name} --serverdir /srv/index --secretfile /etc/index/secret --role master\n\
        {command_name} --configfile /etc/index/node.yml")]
    #[argh(note = "Look into each file before you use it. The folder may be written again.")]
    GenConfig
    options {}
    switches {}
    positional {}
}

/// A private Python package index that replicates.
#[derive(FromArgs, Debug)]
#[argh(help_triggers("-h", "--help"))]
#[argh(example = "{command_name} init --serverdir /srv/index --no-root-pypi\n\
    {command_name} serve --serverdir /srv/index --port 3141\n\
    \n\
    Each command tells more with --help. Called by the name of one of devpi's programs (devpi-server, devpi-init,\n\
    devpi-gen-secret, devpi-gen-config, devpi-passwd, devpi-export, devpi-import, devpi-fsck: a link to this binary), it takes that program's options.")]
pub struct Twinpi {
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    /// what to do
    pub command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub enum Command {
    /// Run a node.
    Serve(Serve),
    /// Make a node's folder.
    Init(Init),
    /// Make or check a secret file.
    GenSecret(GenSecret),
    /// Set a password.
    Passwd(Passwd),
    /// Make a replica the master.
    Promote(Promote),
    /// Make a node follow another one, and save what it alone has.
    Demote(Demote),
    /// Make a replica follow another master.
    Follow(Follow),
    /// Write all that a node holds as an export.
    Export(Export),
    /// Make a node's folder out of an export.
    Import(Import),
    /// Check a node's files.
    Fsck(Fsck),
    /// Check a node's log and files, also against the master.
    Verify(Verify),
    /// Make the search index anew.
    Reindex(Reindex),
    /// Write files for nginx, systemd and others.
    GenConfig(GenConfig),
    /// Make, list and revoke access tokens.
    Token(super::token::Token),
    /// Wait until nodes have a serial.
    Wait(super::wait::Wait),
}
