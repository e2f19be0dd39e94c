"""The demo's report in a real browser: desktop and phone, light and dark."""

import pytest

pytest.importorskip('mmcv')

from mmkerv.cli.report.demo_page import render_report
from tests.cli.report import made_up
from tests.cli.report.chromium import BROWSER, Chromium

pytestmark = pytest.mark.skipif(BROWSER is None, reason='no chromium to open pages with')

# Elements wider than the window and not inside a scrolling box, colours, and the contrast of texts with the page.
LOOK = """(() => {
  const scrolls = e => getComputedStyle(e).overflowX !== 'visible';
  const inBox = e => e.parentElement && (scrolls(e.parentElement) || inBox(e.parentElement));
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const below = e => { const c = getComputedStyle(e).backgroundColor;
    return c !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? c : below(e.parentElement); };
  const contrast = e => { const [a, b] = [light(getComputedStyle(e).color), light(below(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  const texts = [...document.querySelectorAll('h1, h2, h3, p, a, dt, dd, th, td, code, figcaption, footer')];
  return {
    width: document.documentElement.scrollWidth,
    wide: [...document.body.querySelectorAll('*')]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inBox(e)).map(e => e.outerHTML.slice(0, 80)),
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    faint: texts.filter(e => contrast(e) < 4.5).map(e => e.outerHTML.slice(0, 80)),
    paper: light(getComputedStyle(document.body).backgroundColor),
    ink: light(getComputedStyle(document.body).color),
    chart: light(getComputedStyle(document.querySelector('.charts text')).fill),
    line: getComputedStyle(document.querySelector('.charts path[style*="--series-1"]')).stroke,
    small: Math.min(...[...document.querySelectorAll('.charts text, .picture text')]
      .map(e => e.getBoundingClientRect().height)),
  };
})()"""


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pages')
    for name, plain in (('alone', False), ('compared', True)):
        (folder / f'{name}.html').write_text(render_report(made_up.report(plain)), encoding='utf-8')
    return folder


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if BROWSER is None:
        pytest.skip('no chromium to open pages with')
    with Chromium(tmp_path_factory.mktemp('profile')) as browser:
        yield browser


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('name', ['alone', 'compared'])
def test_report(browser, pages, name, width, dark):
    page = pages / f'{name}.html'
    visit = browser.visit(page, width, dark, LOOK)
    result = visit.result
    assert visit.errors == [] and visit.requests == [page.as_uri()]
    assert result['width'] == width and result['wide'] == []
    assert result['broken'] == 0 and result['faint'] == []
    assert (result['paper'] < 0.05) is dark and (result['ink'] > 0.5) is dark and (result['chart'] > 0.5) is dark
    assert result['line'] == ('rgb(143, 178, 255)' if dark else 'rgb(36, 88, 197)')
    assert result['small'] >= 9


def test_errors_and_overflow_are_detected(browser, tmp_path):
    """The test above relies on this."""
    page = tmp_path / 'bad.html'
    page.write_text('<img src="http://127.0.0.1:9/a.png"><script>nothing()</script><p style="width: 2000px">a</p>')
    visit = browser.visit(page, 390, False, 'document.documentElement.scrollWidth')
    assert len(visit.errors) >= 2 and 'http://127.0.0.1:9/a.png' in visit.requests and visit.result >= 2000
