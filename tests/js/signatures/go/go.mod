module example.com/probe

go 1.19

require example.com/backend v0.0.0

replace example.com/backend => ../../../../docs/backends/go
