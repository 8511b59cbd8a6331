# What the gateway is to do, as its options: docs/configuration.md has them all. Replace the
# namespaces and rules by your own; lists of tables are written as in TOML.
locals {
  namespaces = <<-TOML
    [
      { name = "topic", match = "/topic/**", history = { size = 100, ttl = "5m" } },
      { name = "user", match = "/user/**" },
    ]
  TOML

  # Everybody hears what is published to topics, and what is sent to themselves. Backends publish,
  # by tokens with the role.
  rules = <<-TOML
    [
      { effect = "allow", actions = ["subscribe"], destination = "/topic/**", authenticated = true },
      { effect = "allow", actions = ["subscribe"], destination = "/user/queue/**", authenticated = true },
      { effect = "allow", actions = ["publish"], destination = "/topic/**", roles = ["backend"] },
      { effect = "allow", actions = ["publish"], destination = "/user/*/queue/**", roles = ["backend"] },
    ]
  TOML

  options = merge(
    {
      FANLIGHT__AUTH__KEYS__0__ALGORITHM      = "ES256"
      FANLIGHT__AUTH__KEYS__0__PUBLIC_KEY_PEM = var.jwt_public_key_pem
      FANLIGHT__AUTH__AUDIENCE                = var.name
      FANLIGHT__NAMESPACES                    = chomp(local.namespaces)
      FANLIGHT__POLICY__RULES                 = chomp(local.rules)
    },
    length(var.allowed_origins) == 0 ? {} : {
      FANLIGHT__ORIGIN__ALLOW = join(",", var.allowed_origins)
    },
  )
}
