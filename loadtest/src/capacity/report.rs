//! A plan as people read it.

use std::fmt::{self, Display, Formatter};

use super::bound::Bound;
use super::plan::Plan;

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, connections, deliveries_per_second, .. } = self;
        writeln!(f, "# {name}\n")?;
        writeln!(f, "{connections} connections, {deliveries_per_second:.0} deliveries a second\n")?;
        let Self { nodes, survivors, nodes_bound_by, .. } = self;
        writeln!(f, "## {nodes} nodes, bound by {nodes_bound_by}\n")?;
        writeln!(f, "Reckoned for the {survivors} that are left after the loss.\n")?;
        bounds(f, "nodes", &self.node_bounds)?;
        let Self { shards, shards_bound_by, redis_gib, .. } = self;
        writeln!(f, "\n## {shards} Redis shards, bound by {shards_bound_by}\n")?;
        writeln!(f, "{redis_gib:.2} GiB in all of them together.\n")?;
        bounds(f, "shards", &self.shard_bounds)?;
        self.fmt_balancer(f)?;
        self.fmt_costs(f)
    }
}

impl Plan {
    fn fmt_balancer(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (billed, binding) = (self.balancer.billed_lcus(), self.balancer.binding);
        writeln!(f, "\n## {billed:.1} LCUs of the load balancer, bound by {binding}\n")?;
        writeln!(f, "| dimension | LCUs |\n|---|---|")?;
        for (dimension, lcus) in &self.balancer.lcus {
            writeln!(f, "| {dimension} | {lcus:.1} |")?;
        }
        Ok(())
    }

    fn fmt_costs(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## {:.0} US dollars a month\n", self.usd_month)?;
        writeln!(f, "| what | US dollars |\n|---|---|")?;
        for cost in &self.costs {
            writeln!(f, "| {} | {:.0} |", cost.of, cost.usd)?;
        }
        Ok(())
    }
}

fn bounds(f: &mut Formatter<'_>, of: &str, bounds: &[Bound]) -> fmt::Result {
    writeln!(f, "| what may run out | {of} it takes | used of what may be | left |")?;
    writeln!(f, "|---|---|---|---|")?;
    for Bound { what, needs, used } in bounds {
        let left = (1.0 - used).max(0.0);
        writeln!(f, "| {what} | {needs} | {:.0} % | {:.0} % |", used * 100.0, left * 100.0)?;
    }
    Ok(())
}
