//! The bytes of a connection, plain or encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, tcp};
use tokio_rustls::client::TlsStream;

/// A connection's bytes.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// What is accepted for writing is also sent, as long as somebody reads.
///
/// TLS takes bytes that the socket has no room for yet, and someone must come back to flush them.
/// All our connections are read all the time, so reading does that.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: TlsStream<TcpStream>,
    unflushed: bool,
}

/// The half that reads.
pub(crate) enum Input<'s> {
    Plain(tcp::ReadHalf<'s>),
    Tls(ReadHalf<&'s mut Encrypted>),
}

/// The half that writes.
pub(crate) enum Output<'s> {
    Plain(tcp::WriteHalf<'s>),
    Tls(WriteHalf<&'s mut Encrypted>),
}

impl Stream {
    pub(crate) fn encrypted(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Encrypted { stream, unflushed: false }))
    }

    /// Both halves, to be polled by the same task.
    pub(crate) fn split(&mut self) -> (Input<'_>, Output<'_>) {
        match self {
            Self::Plain(stream) => {
                let (input, output) = stream.split();
                (Input::Plain(input), Output::Plain(output))
            }
            Self::Tls(stream) => {
                let (input, output) = tokio::io::split(&mut **stream);
                (Input::Tls(input), Output::Tls(output))
            }
        }
    }
}

impl Encrypted {
    fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_flushed(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_flushed(context))?;
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.unflushed = true;
        // A failure shows again at the next read; these bytes may be gone already.
        let _ = self.poll_flushed(context);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flushed(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Gives a call to whichever it is.
macro_rules! either {
    ($of:ident, $self:ident.$call:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            $of::Plain(stream) => Pin::new(stream).$call($($argument),*),
            $of::Tls(stream) => Pin::new(stream).$call($($argument),*),
        }
    };
}

macro_rules! reads {
    ($of:ident$(<$life:lifetime>)?) => {
        impl AsyncRead for $of$(<$life>)? {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                either!($of, self.poll_read(context, buffer))
            }
        }
    };
}

macro_rules! writes {
    ($of:ident$(<$life:lifetime>)?) => {
        impl AsyncWrite for $of$(<$life>)? {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                either!($of, self.poll_write(context, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!($of, self.poll_flush(context))
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                either!($of, self.poll_shutdown(context))
            }
        }
    };
}

reads!(Stream);
writes!(Stream);
reads!(Input<'_>);
writes!(Output<'_>);
