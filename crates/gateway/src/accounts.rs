//! Accounts of services: whose login and passcode somebody has given.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, Digest, SHA256};
use fanlight_engine::auth::{AuthError, Principal};

use crate::config::{Account, Problem};

/// The configured accounts; their passcodes are kept as digests only.
#[derive(Default)]
pub struct Accounts(Vec<Known>);

struct Known {
    login: Box<str>,
    passcode: Digest,
    roles: Box<[Box<str>]>,
}

impl Accounts {
    /// Reads the configured accounts.
    pub fn new(accounts: &[Account]) -> Result<Self, Vec<Problem>> {
        let read = accounts.iter().enumerate().map(|(at, account)| {
            let passcode = account.read_passcode(&format!("auth.accounts[{at}]"))?;
            Ok(Known {
                login: account.login.as_str().into(),
                passcode: digest_of(passcode.reveal()),
                roles: account.roles.iter().map(|role| role.as_str().into()).collect(),
            })
        });
        read.collect::<Result<_, Problem>>().map(Self).map_err(|problem| vec![problem])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who `login` is, if it is an account's.
    ///
    /// The digests have one length, and are compared in constant time and for every account: the
    /// time tells neither how much of a passcode is right nor which logins there are.
    pub fn check(&self, login: &str, passcode: &str) -> Option<Result<Principal, AuthError>> {
        let given = digest_of(passcode);
        let mut found = None;
        for known in &self.0 {
            let fits = verify_slices_are_equal(given.as_ref(), known.passcode.as_ref()).is_ok();
            if *known.login == *login {
                found = Some(if fits { Ok(known) } else { Err(AuthError::BadLogin) });
            }
        }
        Some(found?.map(|known| Principal {
            roles: known.roles.clone(),
            is_service: true,
            ..Principal::of_user(login)
        }))
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|known| &known.login)).finish()
    }
}

fn digest_of(passcode: &str) -> Digest {
    digest::digest(&SHA256, passcode.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn accounts() -> Accounts {
        let account = |login: &str, passcode: &str| Account {
            login: login.into(),
            passcode: Secret::new(passcode),
            passcode_file: None,
            roles: vec!["backend".into()],
        };
        Accounts::new(&[account("shop", "sesame"), account("stock", "mustard")]).unwrap()
    }

    #[test]
    fn an_accounts_own_passcode_makes_a_service_with_its_roles() {
        let shop = accounts().check("shop", "sesame").unwrap().unwrap();
        assert!(shop.is_service && shop.has_role("backend"));
        assert_eq!(&*shop.user, "shop");
    }

    #[test]
    fn no_other_passcode_is_taken_for_a_known_login() {
        for wrong in ["mustard", "sesam", "sesame ", "Sesame", ""] {
            assert_eq!(accounts().check("shop", wrong), Some(Err(AuthError::BadLogin)), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_login_is_no_matter_of_accounts() {
        assert_eq!(accounts().check("ann", "sesame"), None);
        assert_eq!(Accounts::default().check("", ""), None);
    }

    #[test]
    fn passcodes_are_not_shown() {
        assert_eq!(format!("{:?}", accounts()), r#"["shop", "stock"]"#);
    }
}
