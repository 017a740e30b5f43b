//! `edge user import`: hashes from elsewhere sign in and are replaced.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    wait_for,
};

use super::{events, is_kept};

/// Of the password `U*U`, from the test vectors of crypt_blowfish.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

#[test]
fn imported_users_sign_in_and_their_old_hash_is_gone_within_5_s() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let list = edge.path("users.csv");
    let file = list.display().to_string();
    let other = BCRYPT.replace("$2a$", "$2y$");
    fs::write(&list, format!("username,password_hash,roles\ncarol,{BCRYPT},\"chat,admin\"\ndave,{other}\n"))?;
    edge.cli(&["user", "import", &file])?.good()?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(client.login("carol", "U*V")?.status() == Some(401));
    ensure!(is_kept(&edge, BCRYPT)?, "it is looked for where it is");
    ensure!(client.login("carol", "U*U")?.status() == Some(200));
    wait_for("the old hash to be gone", Duration::from_secs(5), || Ok((!is_kept(&edge, BCRYPT)?).then_some(())))?;
    ensure!(client.login("carol", "U*U")?.status() == Some(200), "by the new hash");
    ensure!(client.login("dave", "U*U")?.status() == Some(200));

    for (text, code, line) in [
        (format!("erin,{BCRYPT}\nfrank,not-a-hash-but-secret\n"), 2, "line 2"),
        (format!("erin,{BCRYPT}\ncarol,{BCRYPT}\n"), 1, "line 2"),
        (format!("erin,{BCRYPT}\n\nerin,{BCRYPT}\n"), 2, "line 3"),
    ] {
        fs::write(&list, &text)?;
        let refused = edge.cli(&["user", "import", &file])?;
        ensure!(refused.code == code && refused.stderr.contains(line), "{refused:?}");
        ensure!(!refused.stderr.contains("secret") && !refused.stderr.contains(BCRYPT), "{refused:?}");
    }
    let users = edge.json(&["user", "list"])?;
    ensure!(!users.to_string().contains("erin"), "all or nothing: {users}");
    ensure!(users.to_string().contains(r#""roles":["chat","admin"]"#), "{users}");
    ensure!(events(&edge, "user.import", 4)?.len() == 4);
    Ok(())
}
