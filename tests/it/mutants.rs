//! Tokens that differ from good ones in what chance changed: `EDGE_MUTANTS` says how many, `EDGE_SEED` repeats a run. What
//! edge accepts is what was signed, to the letter; and whatever it accepts, PyJWT accepts too and reads the same in it.

use std::{
    collections::HashSet,
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_user::{
    clock::Wall,
    server::{
        auth::token::{Stamp, Tokens},
        jws::{Algorithm, Members, SigningKey},
    },
};
use fastrand::Rng;
use serde_json::{Value, json};

const ISSUER: &str = "https://edge.test";
const AUDIENCE: &str = "test";

/// Reads `TOKEN` lines, writes `-` or what the token names.
const PYJWT: &str = r#"
import sys, jwt
algorithm, key, public = sys.argv[1], open(sys.argv[2]).read(), sys.argv[1] != "HS256"
if public:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    key = load_pem_private_key(key.encode(), None).public_key()
claims = ["exp", "iat", "nbf", "iss", "aud", "sub", "jti"]
for line in sys.stdin.buffer:
    try:
        read = jwt.decode(line.rstrip(b"\n"), key, algorithms=[algorithm], audience="test", issuer="https://edge.test",
                          leeway=30, options={"require": claims})
        print("+" + str(read["sub"]))
    except Exception:
        print("-")
"#;

#[test]
fn nothing_is_accepted_that_is_not_the_signed_bytes() -> Result<()> {
    let mutants = from_environment("EDGE_MUTANTS")?.unwrap_or(20_000);
    let seed = from_environment("EDGE_SEED")?.unwrap_or_else(|| Rng::new().u64(..));
    println!("EDGE_SEED={seed}, {mutants} tokens");
    let each = mutants.div_ceil(Algorithm::ALL.len() as u64);
    for algorithm in Algorithm::ALL {
        Campaign::new(algorithm, seed)?
            .run(each)
            .with_context(|| format!("{algorithm:?}, EDGE_SEED={seed} repeats it"))?;
    }
    Ok(())
}

struct Campaign {
    algorithm: Algorithm,
    key: SigningKey,
    /// As PyJWT reads it.
    file: tempfile::NamedTempFile,
    tokens: Tokens,
    now: Wall,
    random: Rng,
    /// All that was ever signed with the key: whatever else is accepted was forged.
    signed: HashSet<String>,
}

impl Campaign {
    fn new(algorithm: Algorithm, seed: u64) -> Result<Campaign> {
        let text = key(algorithm)?;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(text.as_bytes())?;
        let signing = || SigningKey::new(algorithm, &text).map_err(anyhow::Error::msg);
        let (ttl, leeway) = (Duration::from_secs(3_600), Duration::from_secs(30));
        let tokens = Tokens::new(signing()?, Vec::new(), ISSUER.to_owned(), AUDIENCE.to_owned(), ttl, leeway);
        let random = Rng::with_seed(seed);
        Ok(Campaign { algorithm, key: signing()?, file, tokens, now: Wall::now(), random, signed: HashSet::new() })
    }

    fn run(&mut self, count: u64) -> Result<()> {
        let mut parents = Vec::new();
        for number in 0..32 {
            let stamp = Stamp { generation: self.random.i64(..), family: self.random.i64(..) };
            let token = self.tokens.issue(&format!("user{number}"), stamp, self.now)?;
            self.signed.insert(token.clone());
            parents.push(token);
        }
        let mut mutants = parents.clone();
        while (mutants.len() as u64) < count {
            let mutant = if self.random.u8(..8) == 0 { self.other_content()? } else { self.other_letters(&parents) };
            mutants.push(mutant);
        }
        self.compare(&mutants)
    }

    fn compare(&self, mutants: &[String]) -> Result<()> {
        let theirs = self.pyjwt(mutants)?;
        ensure!(theirs.len() == mutants.len(), "PyJWT judged {} of {}", theirs.len(), mutants.len());
        let (mut accepted, mut only_theirs) = (0, 0);
        for (token, theirs) in mutants.iter().zip(&theirs) {
            match self.tokens.verify(token, self.now) {
                Ok(caller) => {
                    accepted += 1;
                    ensure!(self.signed.contains(token), "accepted, and never signed: {token}");
                    ensure!(*theirs == format!("+{}", caller.name), "{} and by PyJWT {theirs}: {token}", caller.name);
                }
                Err(_) if theirs != "-" => only_theirs += 1,
                Err(_) => {}
            }
        }
        let (algorithm, all) = (self.algorithm, mutants.len());
        println!("{algorithm:?}: {all} tokens, {accepted} accepted, all of them signed; {only_theirs} more by PyJWT");
        // The parents at least, and of the others hardly any.
        ensure!((32..all / 2).contains(&accepted), "{accepted} of {all} are accepted");
        Ok(())
    }

    /// A few letters changed, added, left out, doubled or exchanged; or parts of several tokens.
    fn other_letters(&mut self, parents: &[String]) -> String {
        let mut token = self.parent(parents).into_bytes();
        if self.random.u8(..4) == 0 {
            let parts: Vec<String> = (0..3).map(|at| part(&self.parent(parents), at)).collect();
            token = parts.join(".").into_bytes();
        }
        for _ in 0..self.random.usize(1..4) {
            let (at, other) = (self.random.usize(..token.len()), self.random.usize(..token.len()));
            match self.random.u8(..8) {
                0 => drop(token.remove(at)),
                1 => token.insert(at, self.letter()),
                2 => token.insert(at, token[at]),
                3 => token.swap(at, other),
                4 => token.truncate(at.max(1)),
                5 => token.extend_from_within(at.min(other)..at.max(other)),
                _ => token[at] = self.letter(),
            }
        }
        String::from_utf8_lossy(&token).into_owned()
    }

    fn parent(&mut self, parents: &[String]) -> String {
        parents[self.random.usize(..parents.len())].clone()
    }

    /// Mostly those of base64url, and whatever else stands in a line.
    fn letter(&mut self) -> u8 {
        match self.random.u8(..4) {
            0 => *self.random.choice(b"=+/.~% \t\"{}\\,:").unwrap_or(&b'='),
            _ => *self.random.choice(b"ABCDWXYZabcdwxyz01289-_").unwrap_or(&b'A'),
        }
    }

    /// Rightly signed, and something else in it than edge writes.
    fn other_content(&mut self) -> Result<String> {
        let (now, name) = (self.now.0 / 1_000, self.random.u16(..).to_string());
        let mut claims = json!({
            "exp": now + 600, "iat": now, "nbf": now, "iss": ISSUER, "aud": AUDIENCE, "sub": name, "jti": "1"
        });
        let mut header = Members([("typ".to_owned(), json!("JWT"))].into());
        let claim = *self.random.choice(&["exp", "iat", "nbf", "iss", "aud", "sub", "jti"]).unwrap_or(&"exp");
        let value = self.value(now);
        match self.random.u8(..4) {
            0 => drop(claims.as_object_mut().and_then(|claims| claims.remove(claim))),
            1 => drop(header.0.insert(["typ", "cty", "crit", "x5u"][self.random.usize(..4)].to_owned(), value)),
            _ => claims[claim] = value,
        }
        let mut payload = claims.to_string();
        if self.random.u8(..4) == 0 {
            let again = format!("{{{:?}:{},", claim, self.value(now));
            payload.replace_range(..1, &again);
        }
        let token = self.key.sign(&header, payload.as_bytes())?;
        self.signed.insert(token.clone());
        Ok(token)
    }

    fn value(&mut self, now: i64) -> Value {
        let near = now + self.random.i64(-100..100);
        match self.random.u8(..14) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!([]),
            3 => json!({}),
            4 => json!(near),
            5 => json!(near as f64),
            6 => json!(near as f64 + 0.5),
            7 => json!(near.to_string()),
            8 => json!(u64::MAX),
            9 => json!(-near),
            10 => json!([AUDIENCE, "other"]),
            11 => json!(AUDIENCE),
            12 => json!(ISSUER),
            _ => json!("at+jwt"),
        }
    }

    fn pyjwt(&self, tokens: &[String]) -> Result<Vec<String>> {
        let mut input = String::new();
        tokens.iter().try_for_each(|token| writeln!(input, "{}", token.replace('\n', " ")))?;
        let given = tempfile::NamedTempFile::new()?;
        fs::write(given.path(), input)?;
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", PYJWT, self.algorithm.name()]).arg(self.file.path());
        let output = command.stdin(Stdio::from(given.reopen()?)).output().context("python3")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }
}

fn part(token: &str, at: usize) -> String {
    token.split('.').nth(at).unwrap_or_default().to_owned()
}

fn key(algorithm: Algorithm) -> Result<String> {
    let made_with: &[&str] = match algorithm {
        Algorithm::HS256 => return Ok("9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp".to_owned()),
        Algorithm::RS256 | Algorithm::PS256 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        Algorithm::EdDSA => &["-algorithm", "ED25519"],
    };
    let made = Command::new("openssl").arg("genpkey").args(made_with).output().context("openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?)
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name} is no number: {text}"))).transpose()
}
