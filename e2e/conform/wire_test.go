package conform

import (
	"context"
	"fmt"
	"os"
	"sort"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The definition in proto/ and upstream's say the same on the wire.
func TestDefinitionIsUpstreamsOnTheWire(t *testing.T) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(
			&protocompile.SourceResolver{ImportPaths: []string{os.Getenv("CONFORM_PROTO")}}),
	}
	files, err := compiler.Compile(context.Background(), "runtime/v1/api.proto")
	if err != nil {
		t.Fatal(err)
	}
	ours := onTheWire(files[0])
	upstreams := onTheWire(v1.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto)
	if len(upstreams) < 800 {
		t.Fatalf("only %d facts were read of upstream's definition", len(upstreams))
	}
	for _, fact := range sortedKeys(upstreams) {
		if ours[fact] != upstreams[fact] {
			t.Errorf("%s is %q upstream and %q here", fact, upstreams[fact], ours[fact])
		}
	}
	for _, fact := range sortedKeys(ours) {
		if _, known := upstreams[fact]; !known {
			t.Errorf("%s is not there upstream", fact)
		}
	}
}

// onTheWire lists all that a peer could notice: names, numbers, types and labels.
func onTheWire(file protoreflect.FileDescriptor) map[string]string {
	facts := map[string]string{"package": string(file.Package()), "syntax": file.Syntax().String()}
	enums(facts, file.Enums())
	messages(facts, file.Messages())
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			method := service.Methods().Get(j)
			facts[string(method.FullName())] = fmt.Sprintf("%s stream=%t -> %s stream=%t",
				method.Input().FullName(), method.IsStreamingClient(),
				method.Output().FullName(), method.IsStreamingServer())
		}
	}
	return facts
}

func messages(facts map[string]string, all protoreflect.MessageDescriptors) {
	for i := range all.Len() {
		message := all.Get(i)
		facts[string(message.FullName())] = "message"
		enums(facts, message.Enums())
		messages(facts, message.Messages())
		for j := range message.Fields().Len() {
			field := message.Fields().Get(j)
			facts[string(field.FullName())] = fmt.Sprintf("%d %s %s%s packed=%t presence=%t oneof=%s",
				field.Number(), field.Cardinality(), field.Kind(), typeName(field), field.IsPacked(),
				field.HasPresence(), oneofName(field))
		}
	}
}

func enums(facts map[string]string, all protoreflect.EnumDescriptors) {
	for i := range all.Len() {
		values := all.Get(i).Values()
		for j := range values.Len() {
			facts[fmt.Sprintf("%s.%s", all.Get(i).FullName(), values.Get(j).Name())] =
				fmt.Sprint(values.Get(j).Number())
		}
	}
}

func typeName(field protoreflect.FieldDescriptor) string {
	switch {
	case field.Message() != nil:
		return " " + string(field.Message().FullName())
	case field.Enum() != nil:
		return " " + string(field.Enum().FullName())
	}
	return ""
}

func oneofName(field protoreflect.FieldDescriptor) string {
	if oneof := field.ContainingOneof(); oneof != nil {
		return string(oneof.Name())
	}
	return ""
}

func sortedKeys(of map[string]string) []string {
	keys := make([]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
