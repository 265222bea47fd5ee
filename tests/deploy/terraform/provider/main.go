// A provider that stands for hashicorp/google where that can't be had: it has the real one's schema, out of a file
// (TF_SCHEMA), so that the real Terraform checks names, types and what is required. It reaches no cloud: a plan is what
// the configuration says, with what Google would fill in unknown.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

type attribute struct {
	Type                         any
	Required, Optional, Computed bool
}

type nested struct {
	Nesting  string
	Min, Max int64
	Block    block
}

type block struct {
	Attributes map[string]attribute
	Blocks     map[string]nested
}

type document struct {
	Resource, Data map[string]block
}

func typeOf(given any) tftypes.Type {
	switch kind := given.(type) {
	case string:
		return map[string]tftypes.Type{"string": tftypes.String, "number": tftypes.Number, "bool": tftypes.Bool}[kind]
	case []any:
		inner := typeOf(kind[1])
		switch kind[0] {
		case "map":
			return tftypes.Map{ElementType: inner}
		case "set":
			return tftypes.Set{ElementType: inner}
		default:
			return tftypes.List{ElementType: inner}
		}
	}
	panic(fmt.Sprintf("no such type: %v", given))
}

func (b block) schema() *tfprotov6.SchemaBlock {
	made := &tfprotov6.SchemaBlock{}
	for name, a := range b.Attributes {
		made.Attributes = append(made.Attributes, &tfprotov6.SchemaAttribute{
			Name: name, Type: typeOf(a.Type), Required: a.Required, Optional: a.Optional, Computed: a.Computed,
		})
	}
	for name, n := range b.Blocks {
		mode := tfprotov6.SchemaNestedBlockNestingModeList
		if n.Nesting == "set" {
			mode = tfprotov6.SchemaNestedBlockNestingModeSet
		}
		made.BlockTypes = append(made.BlockTypes, &tfprotov6.SchemaNestedBlock{
			TypeName: name, Nesting: mode, MinItems: n.Min, MaxItems: n.Max, Block: n.Block.schema(),
		})
	}
	return made
}

type server struct {
	tfprotov6.ProviderServer
	resources, data map[string]*tfprotov6.Schema
	blocks          map[string]block
}

func (s *server) GetMetadata(context.Context, *tfprotov6.GetMetadataRequest) (*tfprotov6.GetMetadataResponse, error) {
	return &tfprotov6.GetMetadataResponse{}, nil
}

func (s *server) GetProviderSchema(context.Context, *tfprotov6.GetProviderSchemaRequest) (*tfprotov6.GetProviderSchemaResponse, error) {
	text := func(name string) *tfprotov6.SchemaAttribute {
		return &tfprotov6.SchemaAttribute{Name: name, Type: tftypes.String, Optional: true}
	}
	provider := &tfprotov6.Schema{Block: &tfprotov6.SchemaBlock{
		Attributes: []*tfprotov6.SchemaAttribute{text("project"), text("region"), text("billing_project")},
	}}
	return &tfprotov6.GetProviderSchemaResponse{Provider: provider, ResourceSchemas: s.resources, DataSourceSchemas: s.data}, nil
}

func (s *server) ValidateProviderConfig(_ context.Context, r *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return &tfprotov6.ValidateProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (s *server) ConfigureProvider(context.Context, *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return &tfprotov6.ConfigureProviderResponse{}, nil
}

func (s *server) StopProvider(context.Context, *tfprotov6.StopProviderRequest) (*tfprotov6.StopProviderResponse, error) {
	return &tfprotov6.StopProviderResponse{}, nil
}

func (s *server) ValidateResourceConfig(context.Context, *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return &tfprotov6.ValidateResourceConfigResponse{}, nil
}

func (s *server) ValidateDataResourceConfig(context.Context, *tfprotov6.ValidateDataResourceConfigRequest) (*tfprotov6.ValidateDataResourceConfigResponse, error) {
	return &tfprotov6.ValidateDataResourceConfigResponse{}, nil
}

// fill returns the object with what the provider computes: unknown at first, or a made-up text.
func fill(kind tftypes.Type, value *tfprotov6.DynamicValue, b block, text any) (*tfprotov6.DynamicValue, error) {
	given, err := value.Unmarshal(kind)
	if err != nil || given.IsNull() {
		return value, err
	}
	fields := map[string]tftypes.Value{}
	if err := given.As(&fields); err != nil {
		return nil, err
	}
	for name, a := range b.Attributes {
		if a.Computed && (fields[name].IsNull() || !fields[name].IsKnown()) {
			made := tftypes.NewValue(typeOf(a.Type), nil)
			if a.Type == "string" || text == tftypes.UnknownValue {
				made = tftypes.NewValue(typeOf(a.Type), text)
			}
			fields[name] = made
		}
	}
	made, err := tfprotov6.NewDynamicValue(kind, tftypes.NewValue(kind, fields))
	return &made, err
}

func (s *server) PlanResourceChange(_ context.Context, r *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	planned, err := fill(s.resources[r.TypeName].ValueType(), r.ProposedNewState, s.blocks[r.TypeName], tftypes.UnknownValue)
	return &tfprotov6.PlanResourceChangeResponse{PlannedState: planned}, err
}

func (s *server) ReadDataSource(_ context.Context, r *tfprotov6.ReadDataSourceRequest) (*tfprotov6.ReadDataSourceResponse, error) {
	state, err := fill(s.data[r.TypeName].ValueType(), r.Config, s.blocks["data "+r.TypeName], os.Getenv("TF_PROJECT_NUMBER"))
	return &tfprotov6.ReadDataSourceResponse{State: state}, err
}

func main() {
	text, err := os.ReadFile(os.Getenv("TF_SCHEMA"))
	if err != nil {
		panic(err)
	}
	var given document
	if err := json.Unmarshal(text, &given); err != nil {
		panic(err)
	}
	s := &server{resources: map[string]*tfprotov6.Schema{}, data: map[string]*tfprotov6.Schema{}, blocks: map[string]block{}}
	for name, b := range given.Resource {
		s.resources[name], s.blocks[name] = &tfprotov6.Schema{Block: b.schema()}, b
	}
	for name, b := range given.Data {
		s.data[name], s.blocks["data "+name] = &tfprotov6.Schema{Block: b.schema()}, b
	}
	if err := tf6server.Serve("registry.terraform.io/hashicorp/google", func() tfprotov6.ProviderServer { return s }); err != nil {
		panic(err)
	}
}
