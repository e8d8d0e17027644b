//! Whether this program may work with this cluster: upstream's programs refuse clusters of another version than their
//! own unless told otherwise, since an older one would drop what it does not know.

use calico_model::ClusterInformationSpec;

use crate::{context::Context, failure::Failure};

/// Compares the version of the cluster with that of this program. A cluster that says none is any program's.
///
/// # Errors
/// The versions differ, or the cluster's cannot be read.
pub(crate) async fn check(ctx: &Context, allow_version_mismatch: bool) -> Result<(), Failure> {
    const HINT: &str = "use --allow-version-mismatch to go on all the same";
    if allow_version_mismatch {
        return Ok(());
    }
    let cluster = match ctx.store.get::<ClusterInformationSpec>("default").await {
        Ok(cluster) => cluster,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) if error.is_unreachable() => return Err(error.into()),
        Err(error) => {
            return Err(Failure::new("The cluster does not say which version it is of.").cause(&error).hint(HINT));
        }
    };
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), cluster.spec.calico_version.as_str());
    if theirs.is_empty() || number(theirs) == number(ours) {
        return Ok(());
    }
    Err(Failure::new("version mismatch.")
        .because(format!("client version: v{ours}"))
        .because(format!("cluster version: {theirs}"))
        .hint(HINT))
}

/// Without the letter before and what follows the number.
fn number(version: &str) -> &str {
    let version = version.strip_prefix('v').unwrap_or(version);
    version.split('-').next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_counts() {
        assert_eq!(number("v3.32.0-12-gdeadbeef"), "3.32.0");
        assert_eq!(number("3.32.0"), number("v3.32.0-dirty"));
        assert_ne!(number("v3.32.1"), number("v3.32.0"));
    }
}
