import { expect, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, type Subject, settled, tap, untilWaiting } from './harness.ts'

/** No two of these are the same bytes; to some collation, trimming or escaping they would be. */
const DISTINCT = [
  ...['job', 'Job', 'JOB', 'job ', 'job  ', ' job', 'job\t', 'job\n', 'job\u200b', '\ufeffjob', 'job\u00a0'],
  ...['j\u00f6b', 'jo\u0308b', 'j\u00f3b', 'jo\u0301b', 'jöB', 'jøb', 'ｊｏｂ'],
  ...['stra\u00dfe', 'strasse', '\ufb00', 'ff', 'i', 'I', '\u0131', '\u0130', 'i\u0307', 'æ', 'ae'],
  ...['😀', '😀 ', '😃', '👍', '👍🏽', '👩‍👩‍👧', '\ufffd', '日本', '日本 ', 'ｱ', 'ア'],
  ...["o'clock", "o''clock", "o\\'clock", 'say "hi"', '"', "'", '`', '``', '\\', '\\\\', '\\n', '/', '//'],
  ...['%', '%%', '_', '__', '100%', '*', '?', '??', '$1', ':name', '@name', '#', '--', '/* */', ';', '{}', '[]'],
  ..."'; drop table rowlock_locks; --|null|NULL|0|00|-1|1e3|true|\u0001|\u007f| |  ".split('|'),
  ...[bytes('x', 255), `${bytes('x', 254)}y`, bytes('x', 254), `${'😀'.repeat(63)}abc`, `${'é'.repeat(127)}z`],
  `${'\u20ac'.repeat(85)}`,
]

const REFUSED: [what: string, name: unknown][] = [
  ['the empty text', ''],
  ['256 bytes of ASCII', bytes('x', 256)],
  ['256 bytes of longer characters', 'é'.repeat(128)],
  ['64 emoji', '😀'.repeat(64)],
  ['a megabyte', bytes('x', 1_000_000)],
  ['a lone high surrogate', '\ud83d'],
  ['a lone low surrogate', 'a\ude00b'],
  ['surrogates in the wrong order', '\ude00\ud83d'],
  ['a NUL character', 'a\0b'],
  ['a number', 42],
  ['a bigint', 42n],
  ['undefined', undefined],
  ['null', null],
  ['an object', {}],
  ['an array', ['name']],
  ['a String object', Object('name')],
  ['a symbol', Symbol('name')],
]

export function namesSuite(subject: Subject): void {
  // PGlite drops a byte order mark from the start of any text that it reads back.
  const names = subject.engine.connector === 'pglite' ? DISTINCT.filter((name) => !name.startsWith('\ufeff')) : DISTINCT

  it('keeps all names apart that differ by a byte, and gives them back as they were', async () => {
    const { locks, others } = subject
    expect(new Set(names).size).toBe(names.length)
    const leases = await Promise.all(names.map((name) => locks.acquire(name, { wait: 0 })))

    const listed = (await others.list()).map(({ name }) => name)
    expect(listed).toEqual([...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))))
    for (const { name, owner } of leases) {
      expect(await others.inspect(name)).toMatchObject({ name, owner })
      expect(await others.tryAcquire(name)).toBeNull()
    }
    // Each release frees just its own.
    for (const [index, lease] of leases.entries()) {
      expect(await lease.release()).toBe(true)
      if (index % 10 === 0) expect(await others.list()).toHaveLength(names.length - index - 1)
    }
    expect(await others.list()).toEqual([])
  })

  it('waits for, renews, restores and force-releases locks of all names', async () => {
    const { locks, others } = subject
    const leases = await Promise.all(names.map((name) => locks.acquire(name)))
    const waiting = names.map((name) => others.acquire(name))
    await untilWaiting(others, names.at(-1)!)
    for (const lease of leases) {
      await lease.extend('1m')
      const restored = await locks.restore(JSON.parse(JSON.stringify(lease)))
      expect(restored.name).toBe(lease.name)
      expect(await restored.release()).toBe(true)
    }
    const served = await Promise.all(waiting)
    expect(served.map(({ name }) => name)).toEqual(names)
    for (const { name } of served) expect(await locks.forceRelease(name)).toBe(true)
    expect(await locks.list()).toEqual([])
  })

  it.each(REFUSED)('refuses %s before anything is asked or changed', async (_, refused) => {
    const { connected, engine } = subject
    const name = refused as string
    const tapped = engine.engine === 'memory' ? null : tap(connected.adapter)
    const locks = createLocks(tapped?.adapter ?? connected.adapter, DEFAULTS)
    const body = () => expect.unreachable('the body must not run')
    const lease = await locks.acquire(freshName())
    const sent = tapped?.statements.length
    const calls: Record<string, () => Promise<unknown>> = {
      acquire: () => locks.acquire(name),
      tryAcquire: () => locks.tryAcquire(name),
      run: () => locks.run(name, {}, body),
      tryRun: () => locks.tryRun(name, {}, body),
      restore: () => locks.restore({ ...lease.toJSON(), name }),
      inspect: () => locks.inspect(name),
      forceRelease: () => locks.forceRelease(name),
      // Everything has the empty prefix, and it is the one that is meant when there is none.
      ...(name !== '' && name !== undefined && { list: () => locks.list({ prefix: name }) }),
    }
    for (const [verb, call] of Object.entries(calls)) {
      expect(await settled(call()), verb).toMatchObject({ status: 'rejected', reason: { code: 'INVALID_ARGUMENT' } })
    }
    expect(tapped?.statements.length).toBe(sent)
    await lease.release()
    await locks.close()
  })
}

function bytes(character: string, count: number): string {
  return character.repeat(count)
}
