"""Headless Chromium, driven by its DevTools protocol over a pipe, to inspect a page and take pictures of it."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--disable-dev-shm-usage',
    '--hide-scrollbars',
    '--remote-debugging-pipe',
)


class Visit(NamedTuple):
    """Errors on the console of a page, the addresses it requested and the result of a script."""

    errors: list[str]
    requests: list[str]
    result: Any


class Chromium:
    """A browser, as a context manager."""

    def __init__(self, folder: Path):
        # The browser reads commands from descriptor 3 and answers on descriptor 4.
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ['bash', '-c', shell, BROWSER, *FLAGS, f'--user-data-dir={folder}'],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self._events = 0, b'', []
        target = self._call('Target.createTarget', url='about:blank')['targetId']
        self._session = self._call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self._call(f'{domain}.enable')

    def __enter__(self) -> 'Chromium':
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)

    def visit(self, page: Path, width: int, dark: bool, script: str = '0', picture: Path | None = None) -> Visit:
        """Open a file at a width, in light or dark; a width below 600 is a phone's. A picture shows the whole page."""
        self._events.clear()
        phone = width < 600
        metrics = dict(width=width, height=844 if phone else 800, deviceScaleFactor=2 if phone else 1, mobile=phone)
        self._call('Emulation.setDeviceMetricsOverride', **metrics)
        scheme = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        self._call('Emulation.setEmulatedMedia', features=scheme)
        self._call('Page.navigate', url=page.resolve().as_uri())
        self._until('Page.loadEventFired')
        result = self._call('Runtime.evaluate', expression=script, returnByValue=True)['result'].get('value')
        if picture:
            shot = self._call('Page.captureScreenshot', format='png', captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot['data']))
        errors = [json.dumps(event) for event in self._events if _is_error(event)]
        sent = [e['params']['request']['url'] for e in self._events if e['method'] == 'Network.requestWillBeSent']
        return Visit(errors, [url for url in sent if not url.startswith('data:')], result)

    def _call(self, method: str, **params: Any) -> dict:
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params}
        if hasattr(self, '_session'):
            message['sessionId'] = self._session
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._read()
            if answer.get('id') == self._number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']
            self._events.append(answer)

    def _until(self, event: str) -> None:
        end = time.monotonic() + 60
        while not any(e['method'] == event for e in self._events):
            if time.monotonic() > end:
                raise TimeoutError(event)
            self._events.append(self._read())

    def _read(self) -> dict:
        while b'\0' not in self._rest:
            block = os.read(self._answers, 1 << 20)
            if not block:
                raise RuntimeError('the browser has exited')
            self._rest += block
        message, _, self._rest = self._rest.partition(b'\0')
        return json.loads(message)


def _is_error(event: dict) -> bool:
    method, params = event['method'], event.get('params', {})
    if method == 'Log.entryAdded':
        return params['entry']['level'] in ('error', 'warning')
    return method in ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled')
