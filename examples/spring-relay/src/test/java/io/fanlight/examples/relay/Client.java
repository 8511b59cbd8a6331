package io.fanlight.examples.relay;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.reflect.Type;
import java.net.URI;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

import org.springframework.messaging.converter.CompositeMessageConverter;
import org.springframework.messaging.converter.MappingJackson2MessageConverter;
import org.springframework.messaging.converter.StringMessageConverter;
import org.springframework.messaging.simp.stomp.StompCommand;
import org.springframework.messaging.simp.stomp.StompFrameHandler;
import org.springframework.messaging.simp.stomp.StompHeaders;
import org.springframework.messaging.simp.stomp.StompSession;
import org.springframework.messaging.simp.stomp.StompSessionHandlerAdapter;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.web.client.RestTemplate;
import org.springframework.web.socket.WebSocketHttpHeaders;
import org.springframework.web.socket.client.WebSocketClient;
import org.springframework.web.socket.client.standard.StandardWebSocketClient;
import org.springframework.web.socket.messaging.WebSocketStompClient;
import org.springframework.web.socket.sockjs.client.RestTemplateXhrTransport;
import org.springframework.web.socket.sockjs.client.SockJsClient;
import org.springframework.web.socket.sockjs.client.WebSocketTransport;

/** One session of Spring's own STOMP client, over any of its transports. */
final class Client implements AutoCloseable {

  /** How a client reaches its server. */
  enum Transport {
    WEBSOCKET(() -> new StandardWebSocketClient(), "ws://%s/ws"),
    SOCKJS_WEBSOCKET(
        () -> new SockJsClient(List.of(new WebSocketTransport(new StandardWebSocketClient()))),
        "http://%s/sockjs"),
    SOCKJS_XHR_STREAMING(() -> new SockJsClient(List.of(xhr(false))), "http://%s/sockjs"),
    SOCKJS_XHR_POLLING(() -> new SockJsClient(List.of(xhr(true))), "http://%s/sockjs");

    private final Supplier<WebSocketClient> client;
    private final String url;

    Transport(Supplier<WebSocketClient> client, String url) {
      this.client = client;
      this.url = url;
    }

    private static RestTemplateXhrTransport xhr(boolean polling) {
      var transport = new RestTemplateXhrTransport(new RestTemplate());
      transport.setXhrStreamingDisabled(polling);
      return transport;
    }
  }

  /** A message as it came. */
  record Received(StompHeaders headers, Note note) {}

  private static final long PATIENCE_SECONDS = 30;

  private static final ThreadPoolTaskScheduler SCHEDULER = scheduler();

  final StompSession session;
  final StompHeaders connected;
  private final CompletableFuture<Throwable> lost;
  private final CompletableFuture<StompHeaders> error;

  private Client(StompSession session, Handler handler) throws Exception {
    this.session = session;
    // Spring tells of the session before it tells of this.
    this.connected = handler.connected.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    this.lost = handler.lost;
    this.error = handler.error;
    session.setAutoReceipt(true);
  }

  static Client connect(
      Transport transport, String server, WebSocketHttpHeaders handshake, StompHeaders headers)
      throws Exception {
    var client = new WebSocketStompClient(transport.client.get());
    client.setMessageConverter(new CompositeMessageConverter(
        List.of(new StringMessageConverter(), new MappingJackson2MessageConverter())));
    client.setTaskScheduler(SCHEDULER);
    client.setDefaultHeartbeat(new long[] {2000, 2000});
    client.setReceiptTimeLimit(PATIENCE_SECONDS * 1000);
    var handler = new Handler();
    var url = URI.create(transport.url.formatted(server));
    var session = client.connectAsync(url, handshake, headers, handler);
    return new Client(session.get(PATIENCE_SECONDS, TimeUnit.SECONDS), handler);
  }

  /** To the Spring application, which believes the name. */
  static Client ofApplication(Transport transport, int port, String user) throws Exception {
    var handshake = new WebSocketHttpHeaders();
    handshake.add("Cookie", "user=" + user);
    return connect(transport, "127.0.0.1:" + port, handshake, new StompHeaders());
  }

  /** To Fanlight itself. */
  static Client ofFanlight(Transport transport, String user) throws Exception {
    var headers = new StompHeaders();
    headers.add("Authorization", "Bearer " + Fanlight.token(user));
    return connect(transport, Fanlight.PUBLIC, new WebSocketHttpHeaders(), headers);
  }

  /** Subscribes, and returns once the broker has confirmed it. */
  BlockingQueue<Received> subscribe(String destination) throws Exception {
    var headers = new StompHeaders();
    headers.setDestination(destination);
    return subscribe(headers);
  }

  BlockingQueue<Received> subscribe(StompHeaders headers) throws Exception {
    var received = new LinkedBlockingQueue<Received>();
    confirmed(session.subscribe(headers, new StompFrameHandler() {
      @Override
      public Type getPayloadType(StompHeaders headers) {
        return Note.class;
      }

      @Override
      public void handleFrame(StompHeaders headers, Object payload) {
        received.add(new Received(headers, (Note) payload));
      }
    }));
    return received;
  }

  /** Sends to the broker, and returns once it has confirmed that. */
  void publish(String destination, Note note) throws Exception {
    confirmed(session.send(destination, note));
  }

  /** Sends to a handler of the application, which confirms nothing. */
  void tell(String destination, String text) {
    session.setAutoReceipt(false);
    session.send(destination, text);
    session.setAutoReceipt(true);
  }

  static Received next(BlockingQueue<Received> queue) throws InterruptedException {
    Received received = queue.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
    assertThat(received).as("a message").isNotNull();
    return received;
  }

  /** Waits for the connection's end. */
  void awaitLoss() throws Exception {
    lost.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  /** Waits for an ERROR. */
  StompHeaders awaitError() throws Exception {
    return error.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  @Override
  public void close() {
    if (session.isConnected()) {
      session.disconnect();
    }
  }

  private static void confirmed(StompSession.Receiptable receiptable) throws Exception {
    var receipt = new CompletableFuture<Void>();
    receiptable.addReceiptTask(() -> receipt.complete(null));
    receiptable.addReceiptLostTask(() -> receipt.completeExceptionally(
        new IllegalStateException("no receipt came")));
    receipt.get(PATIENCE_SECONDS + 5, TimeUnit.SECONDS);
  }

  private static ThreadPoolTaskScheduler scheduler() {
    var scheduler = new ThreadPoolTaskScheduler();
    scheduler.setDaemon(true);
    scheduler.initialize();
    return scheduler;
  }

  private static final class Handler extends StompSessionHandlerAdapter {

    private final CompletableFuture<Throwable> lost = new CompletableFuture<>();
    private final CompletableFuture<StompHeaders> error = new CompletableFuture<>();
    private final CompletableFuture<StompHeaders> connected = new CompletableFuture<>();

    @Override
    public void afterConnected(StompSession session, StompHeaders headers) {
      connected.complete(headers);
    }

    /** An ERROR; without a body, Spring does not pass it on. */
    @Override
    public void handleFrame(StompHeaders headers, Object payload) {
      error.complete(headers);
    }

    @Override
    public void handleException(
        StompSession session, StompCommand command, StompHeaders headers, byte[] body,
        Throwable exception) {
      throw new AssertionError("handling " + command + " " + headers, exception);
    }

    @Override
    public void handleTransportError(StompSession session, Throwable exception) {
      lost.complete(exception);
    }
  }
}
