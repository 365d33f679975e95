use super::*;

fn reason(text: &str) -> String {
    let failure = Config::from_text(text, "test.toml").unwrap_err();
    assert_eq!((failure.code(), failure.what()), (Code::Config, "test.toml is wrong"));
    failure.place_and_reason().1.unwrap()
}

/// With absolute paths as this system has them.
fn local(text: &str) -> String {
    let root = crate::sys::ROOT;
    text.replace("'/", &format!("'{root}/")).replace("\"/", &format!("\"{root}/"))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(Config::from_text("", "x").unwrap(), Config::default());
}

#[test]
fn the_list_of_known_keys_is_what_the_types_have() {
    let text = r#"
        [vcenter]
        host = "vc"
        username = "u"
        password_file = "/p"
        ca_file = "/c"
        fingerprint = "00"
        [[datastore]]
        name = "a"
        path = "/a"
        [[datastore]]
        name = "b"
        lun = ["/b"]
        raw_devices = { "naa.6000" = "/dev/c" }
        [mount]
        root = "/m"
        uid = 1
        gid = 1
        file_mode = "0444"
        dir_mode = "0555"
        [log]
        file = "/l"
    "#;
    let config = Config::from_text(&local(text), "x").unwrap();
    let toml::Value::Table(table) = toml::Value::try_from(&config).unwrap() else { panic!("no table") };
    for (name, keys) in keys::KEYS {
        let mut found: Vec<String> = match &table[*name] {
            toml::Value::Array(entries) => {
                entries.iter().flat_map(|entry| entry.as_table().unwrap().keys().cloned()).collect()
            }
            value => value.as_table().unwrap().keys().cloned().collect(),
        };
        found.sort();
        found.dedup();
        let mut known: Vec<&str> = keys.to_vec();
        known.sort_unstable();
        assert_eq!(found, known, "[{name}]");
    }
    assert_eq!(table.len(), keys::KEYS.len());
    assert_eq!(Config::from_text(&config.to_toml().unwrap(), "x").unwrap(), config);
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    assert_eq!(
        reason("[mount]\nfile-mod = \"0444\"\n"),
        "line 2: unknown key 'file-mod' in [mount]; did you mean 'file_mode'?"
    );
    assert_eq!(
        reason("\n[[datastore]]\nname='a'\npth='/a'\n"),
        "line 4: unknown key 'pth' in [datastore]; did you mean 'path'?"
    );
    assert_eq!(reason("[snapshots]\n"), "line 1: unknown table 'snapshots'; did you mean 'snapshot'?");
    assert_eq!(reason("xyzzy = 1\n"), "line 1: unknown table 'xyzzy'");
    assert_eq!(
        reason("[log]\nusername = 'x'\n"),
        "line 2: unknown key 'username' in [log]; did you mean 'vcenter.username'?"
    );
    assert_eq!(reason("mount = 3\n"), "line 1: 'mount' must be a table");
}

#[test]
fn values_of_the_wrong_kind_name_their_line() {
    assert!(reason("[mount]\nmode = 'files'\n").contains("line 2"), "{}", reason("[mount]\nmode = 'files'\n"));
    assert!(reason("[mount]\nmode = \n").contains("line 2"));
    assert!(reason("[snapshot]\nquiesce_minutes = 3\n").contains("between 5 and 240"));
    assert!(reason("[mount]\nfile_mode = '888'\n").contains("octal"));
}

#[test]
fn a_datastore_needs_a_usable_name_and_one_place() {
    assert!(reason("[[datastore]]\nname = 'a'\n").contains("either 'path' or 'lun'"));
    assert!(reason("[[datastore]]\nname = 'a'\npath='/a'\nlun=['/b']").contains("either 'path' or 'lun'"));
    assert!(reason("[[datastore]]\nname = 'a]'\npath='/a'\n").contains("unusable name"));
    assert!(reason("[[datastore]]\nname = 'a'\npath='a'\n").contains("not an absolute path"));
    let relative = "[[datastore]]\nname = 'a'\npath='/a'\nraw_devices = { x = 'sdb' }\n";
    assert!(reason(&local(relative)).contains("not an absolute path"));
}

#[test]
fn layers_merge_by_key_and_datastores_by_name() {
    let lower = "[mount]\nuid = 1\ngid = 1\n[[datastore]]\nname='a'\npath='/old'\n[[datastore]]\nname='b'\npath='/b'\n";
    let upper = "[mount]\nuid = 2\n[[datastore]]\nname='a'\nlun=['/new']\n";
    let mut merged = parse(&local(lower), "lower").unwrap();
    lay_over(&mut merged, parse(&local(upper), "upper").unwrap());
    let config = finish(merged).unwrap();
    assert_eq!((config.mount.uid, config.mount.gid), (Some(2), Some(1)));
    assert_eq!(config.datastore("a").unwrap().lun, [PathBuf::from(format!("{}/new", crate::sys::ROOT))]);
    assert!(config.datastore("a").unwrap().path.is_none());
    assert!(config.datastore("b").is_some());
}

#[test]
fn a_missing_explicit_file_is_an_error() {
    let failure = Config::load(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
    assert_eq!(failure.code(), Code::Config);
    assert!(failure.what().contains("/nonexistent/config.toml"));
}

#[test]
fn a_config_js_is_imported_without_running_it() {
    let text = r#"/*
 * VCB configuration
 */
// HOST="wrong";
BACKUPROOT="C:\\mnt";
HOST="vc.example.com"; // the server
PORT="902";
USERNAME="backup";
PASSWORD="se\"cret;//x";
TRANSPORT_MODE="nbd";
VM_LOOKUP_METHOD="name";
PREEXISTING_MOUNTPOINT="delete";
PREEXISTING_VCB_SNAPSHOT="delete";
HOST = evil();
"#;
    let found = import(text);
    let vcenter = found.config.vcenter.unwrap();
    assert_eq!((vcenter.host.as_str(), vcenter.username.as_str()), ("vc.example.com:902", "backup"));
    assert_eq!(vcenter.transports, [Transport::San, Transport::File, Transport::Https]);
    assert_eq!(found.password.unwrap(), "se\"cret;//x");
    assert_eq!(found.config.mount.preexisting, Preexisting::Delete);
    assert_eq!(found.config.snapshot.preexisting, Preexisting::Delete);
    assert_eq!(
        found.notes,
        [
            "line 5: BACKUPROOT: not a path of this system; set mount.root",
            "line 10: TRANSPORT_MODE: not available; replaced by san, file, https in this order",
            "line 14: not an assignment, skipped",
        ]
    );
}

#[test]
fn a_backuptools_conf_is_imported() {
    let found =
        import("# comment with = and ;\nVCHOST=esx1\nUSERNAME=root\nPASSWORD=\"\"\nBACKUPROOT=/mnt/vcb\nODD=1\n");
    assert_eq!(found.config.vcenter.unwrap().host, "esx1");
    assert_eq!(found.config.mount.root, Some(PathBuf::from("/mnt/vcb")));
    assert_eq!((found.password, found.notes), (None, vec!["line 6: ODD: not known, skipped".to_owned()]));
}
