// Package openapi embeds the OpenAPI 3 document that is generated from the
// contract, so that the gateway serves what it was built with.
package openapi

import _ "embed"

// YAML is the document as protoc-gen-openapi writes it: without security, and
// with whole responses where response_body names a part. The gateway completes it.
//
//go:embed openapi.yaml
var YAML []byte
