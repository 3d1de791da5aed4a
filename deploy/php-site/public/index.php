<?php

header('Content-Type: text/plain');
$client = $_SERVER['HTTP_X_FORWARDED_FOR'] ?? $_SERVER['REMOTE_ADDR'];
$scheme = $_SERVER['HTTP_X_FORWARDED_PROTO'] ?? 'http';
echo "hello from PHP ", PHP_VERSION, ", to $client, who asked for $scheme://$_SERVER[HTTP_HOST]$_SERVER[REQUEST_URI]\n";
