//! A connection's stream as it goes from hand to hand, within TLS or not: of tokio while HTTP is
//! spoken, of a worker's poll afterwards.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::Session;

/// A stream, and the TLS that is spoken on it.
pub struct Socket<S = StdTcpStream> {
    stream: S,
    tls: Option<Box<Session>>,
}

impl<S> Socket<S> {
    /// Without TLS.
    pub fn plain(stream: S) -> Self {
        Self { stream, tls: None }
    }

    /// The protocol that was agreed on within TLS.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn_protocol()
    }

    /// Whether something is decrypted and not read: no readiness of the stream tells of it.
    pub fn has_unread(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unread())
    }

    /// The stream itself.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    fn try_map<T>(self, to: impl FnOnce(S) -> io::Result<T>) -> io::Result<Socket<T>> {
        Ok(Socket { stream: to(self.stream)?, tls: self.tls })
    }
}

impl Socket<TcpStream> {
    /// Away from tokio.
    pub fn into_std(self) -> io::Result<Socket> {
        self.try_map(TcpStream::into_std)
    }
}

impl Socket {
    /// To tokio.
    pub fn into_tokio(self) -> io::Result<Socket<TcpStream>> {
        self.try_map(TcpStream::from_std)
    }

    /// To a worker's poll.
    pub fn into_mio(self) -> Socket<mio::net::TcpStream> {
        let Self { stream, tls } = self;
        Socket { stream: mio::net::TcpStream::from_std(stream), tls }
    }
}

/// Non-blocking, like the stream itself.
impl Socket<mio::net::TcpStream> {
    /// Reads; nothing at the end. What is said within TLS here knows its own end, so it does not
    /// matter whether TLS had its.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buffer) };
        let mut out = ReadBuf::new(buffer);
        match tls.read(&mut self.stream, &mut out) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read.map(|()| out.filled().len()),
        }
    }

    /// Whether a read that gave `bytes` of `asked` took all there was.
    pub fn is_dry(&self, bytes: usize, asked: usize) -> bool {
        self.tls.as_ref().map_or(bytes < asked, |tls| tls.is_dry())
    }

    /// Whether there is something to read before the end.
    pub fn peek(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return self.stream.peek(&mut [0]).map(|bytes| bytes > 0);
        };
        match tls.peek(&mut self.stream) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            peeked => peeked,
        }
    }

    /// Writes some of `data`.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write(data),
            Some(tls) => tls.write(&mut self.stream, data),
        }
    }

    /// Writes some of `pieces`.
    pub fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write_vectored(pieces),
            Some(tls) => tls.write_vectored(&mut self.stream, pieces),
        }
    }

    /// Writes what was taken and the stream did not take.
    pub fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.flush(&mut self.stream))
    }

    /// Whether something was taken that the stream did not take.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unsent())
    }

    /// Whether it may be dropped without a reset that overtakes our last words: a peer of TLS
    /// answers their end, and what comes to a socket that is closed resets it.
    pub fn may_be_dropped(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.has_heard_all())
    }

    /// Says that nothing more is written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.finish_tls()?;
        self.stream.shutdown(Shutdown::Write)
    }

    /// Says so within TLS only.
    pub fn finish_tls(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| tls.close(&mut self.stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Agrees on TLS.
    pub async fn accept(stream: S, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = Session::new(config).map_err(io::Error::other)?;
        let mut accepted = Self { stream, tls: Some(Box::new(session)) };
        std::future::poll_fn(|context| {
            accepted.with_tls(context, |tls, stream| tls.handshake(stream))
        })
        .await?;
        Ok(accepted)
    }

    fn with_tls<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(&mut Session, &mut Polled<'_, '_, S>) -> io::Result<T>,
    ) -> Poll<io::Result<T>>
    where
        T: Default,
    {
        let Self { stream, tls } = self;
        let Some(tls) = tls else { return Poll::Ready(Ok(T::default())) };
        match step(tls, &mut Polled { stream, context }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

/// Whoever reads and whoever writes must be one task: TLS may have to write in order to read.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        this.with_tls(context, |tls, stream| tls.read(stream, buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            return Pin::new(&mut this.stream).poll_write(context, data);
        }
        this.with_tls(context, |tls, stream| tls.write(stream, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            return Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        }
        this.with_tls(context, |tls, stream| tls.write_vectored(stream, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_some() || self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.with_tls(context, |tls, stream| tls.flush(stream)))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.with_tls(context, |tls, stream| tls.close(stream)))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// A stream of tokio that would block where it is pending.
struct Polled<'a, 'b, S> {
    stream: &'a mut S,
    context: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Polled<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Polled<'_, '_, S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.stream).poll_write(self.context, data) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match Pin::new(&mut *self.stream).poll_flush(self.context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
