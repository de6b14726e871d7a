//! A second address of a broker, one that its certificate does not name.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// An address on 127.0.0.2 that leads to `place`, as long as the test's runtime lives.
pub(crate) async fn by_another_address(place: &str) -> String {
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let place = place.to_owned();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let place = place.clone();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(place).await else { return };
                // How it ends is what the test looks at, on its own side.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}
