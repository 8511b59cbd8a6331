# What the gateway is to do, as its options: docs/configuration.md has them all. Replace the
# namespaces and rules by your own; lists of tables are written as in TOML.
locals {
  options = merge(
    {
      FANLIGHT__AUTH__KEYS__0__ALGORITHM      = "ES256"
      FANLIGHT__AUTH__KEYS__0__PUBLIC_KEY_PEM = var.jwt_public_key_pem
      FANLIGHT__AUTH__AUDIENCE                = var.name

      # Everybody hears what is published to topics, and what is sent to themselves. Backends
      # publish, by tokens with the role.
      FANLIGHT__NAMESPACES    = <<-TOML
        [
          { name = "topic", match = "/topic/**", history = { size = 100, ttl = "5m" } },
          { name = "user", match = "/user/**" },
        ]
      TOML
      FANLIGHT__POLICY__RULES = <<-TOML
        [
          { effect = "allow", actions = ["subscribe"], destination = "/topic/**", authenticated = true },
          { effect = "allow", actions = ["subscribe"], destination = "/user/queue/**", authenticated = true },
          { effect = "allow", actions = ["publish"], destination = "/**", roles = ["backend"] },
        ]
      TOML
    },
    length(var.allowed_origins) == 0 ? {} : {
      FANLIGHT__ORIGIN__ALLOW = join(",", var.allowed_origins)
    },
  )
}
