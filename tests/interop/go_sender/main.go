// Sends spans with OpenTelemetry's Go SDK to several receivers at once.
//
//	sender COUNT PROTOCOL:COMPRESSION:HOST:PORT ...
//
// PROTOCOL is grpc or http (protobuf), COMPRESSION gzip or none. Exits with 0 when every receiver took everything.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func exporter(ctx context.Context, target string) (*otlptrace.Exporter, error) {
	parts := strings.SplitN(target, ":", 3)
	if parts[0] == "grpc" {
		options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(parts[2]), otlptracegrpc.WithInsecure()}
		if parts[1] == "gzip" {
			options = append(options, otlptracegrpc.WithCompressor("gzip"))
		}
		return otlptracegrpc.New(ctx, options...)
	}
	options := []otlptracehttp.Option{otlptracehttp.WithEndpoint(parts[2]), otlptracehttp.WithInsecure()}
	if parts[1] == "gzip" {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	return otlptracehttp.New(ctx, options...)
}

func main() {
	ctx := context.Background()
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	about := resource.NewSchemaless(attribute.String("service.name", "go-sender"), attribute.Int("service.shards", 3))
	options := []sdk.TracerProviderOption{sdk.WithResource(about)}
	for _, target := range os.Args[2:] {
		sending, err := exporter(ctx, target)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, sdk.WithBatcher(sending, sdk.WithMaxQueueSize(count+1), sdk.WithMaxExportBatchSize(100)))
	}
	provider := sdk.NewTracerProvider(options...)
	tracer := provider.Tracer("sender", trace.WithInstrumentationVersion("1.2"))
	var previous trace.SpanContext
	for number := range count {
		above := ctx
		if number%3 != 0 {
			above = trace.ContextWithSpanContext(ctx, previous)
		}
		_, span := tracer.Start(above, fmt.Sprintf("operation %d", number),
			trace.WithSpanKind(trace.SpanKind(number%5+1)),
			trace.WithLinks(trace.Link{SpanContext: previous, Attributes: []attribute.KeyValue{attribute.Bool("near", true)}}),
			trace.WithAttributes(
				attribute.String("text", fmt.Sprintf("größe %d", number)),
				attribute.Int("number", -number),
				attribute.Float64("share", float64(number)/7),
				attribute.Bool("even", number%2 == 0),
				attribute.StringSlice("list", []string{"a", "", "ü"})))
		span.AddEvent("something", trace.WithTimestamp(time.Now()), trace.WithAttributes(attribute.Int("at", number)))
		if number%2 == 1 {
			span.SetStatus(codes.Error, "went wrong")
		}
		previous = span.SpanContext()
		span.End()
	}
	if err := provider.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
}
