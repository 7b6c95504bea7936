import { expect, it } from 'vitest'
import {
  type Adapter,
  createLocks,
  type Duration,
  type InstanceOptions,
  LockError,
  type LockOptions,
} from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, type Subject, settled, tap } from './harness.ts'

const NO_DURATIONS: unknown[] = [
  ...[-1, -0.5, Number.NaN, Number.NEGATIVE_INFINITY, 2 ** 31, Number.MAX_VALUE],
  ...['5 parsecs', '', ' ', 's', 'abc', '-5s', '5', '5s5s', '1.2.3s', '30s; drop table', '999999999d', 'Infinity'],
  ...[null, {}, [], [5], true, 10n, new Date(), Symbol('5s'), () => 5],
]

export function argumentsSuite(subject: Subject): void {
  it('refuses what is no duration, or too long for a timer, before the database is asked', async () => {
    const { connected, engine } = subject
    const tapped = engine.engine === 'memory' ? null : tap(connected.adapter)
    const locks = createLocks(tapped?.adapter ?? connected.adapter, DEFAULTS)
    const lease = await locks.acquire(freshName())
    const sent = tapped?.statements.length
    const body = () => expect.unreachable('the body must not run')
    for (const each of NO_DURATIONS) {
      const duration = each as Duration
      const calls: Record<string, () => unknown> = {
        'acquire ttl': () => locks.acquire(freshName(), { ttl: duration }),
        'acquire wait': () => locks.acquire(freshName(), { wait: duration }),
        'acquire maxHold': () => locks.acquire(freshName(), { maxHold: duration }),
        'tryAcquire ttl': () => locks.tryAcquire(freshName(), { ttl: duration }),
        'run ttl': () => locks.run(freshName(), { ttl: duration }, body),
        'tryRun wait': () => locks.tryRun(freshName(), { wait: duration }, body),
        extend: () => lease.extend(duration),
        'restore maxHold': () => locks.restore(lease.toJSON(), { maxHold: duration }),
        'forceRelease wait': () => locks.forceRelease(freshName(), { wait: duration }),
        'createLocks ttl': () => createLocks(connected.adapter, { ttl: duration }),
        'createLocks wait': () => createLocks(connected.adapter, { wait: duration }),
        'createLocks maxHold': () => createLocks(connected.adapter, { maxHold: duration }),
        'createLocks statementTimeout': () => createLocks(connected.adapter, { statementTimeout: duration }),
        ...(each !== 2 ** 31 && each !== '999999999d' && { purge: () => locks.purge({ idleFor: duration }) }),
      }
      await expectRefused(calls, String(each))
    }
    expect(tapped?.statements.length).toBe(sent)
    await lease.release()
    await locks.close()
  })

  it('refuses a ttl of no length or for ever, and a wait that never ends where nobody asked for one', async () => {
    const { locks, connected } = subject
    await expectRefused({
      'ttl 0': () => locks.acquire(freshName(), { ttl: 0 }),
      'ttl 1ms': () => locks.acquire(freshName(), { ttl: '1ms' }),
      'ttl Infinity': () => locks.acquire(freshName(), { ttl: Number.POSITIVE_INFINITY }),
      'statementTimeout 0': () => createLocks(connected.adapter, { statementTimeout: 0 }),
      'purge Infinity': () => locks.purge({ idleFor: Number.POSITIVE_INFINITY }),
    })
  })

  it('refuses options that are none', async () => {
    const { locks } = subject
    const name = freshName()
    const body = () => expect.unreachable('the body must not run')
    const attempt = (options: unknown) => ({
      acquire: () => locks.acquire(name, options as LockOptions),
      tryAcquire: () => locks.tryAcquire(name, options as LockOptions),
      run: () => locks.run(name, options as LockOptions, body),
    })
    for (const options of [null, 'options', 42, true, () => undefined])
      await expectRefused(attempt(options), String(options))
    for (const renew of ['yes', 1, null]) await expectRefused(attempt({ renew }), `renew ${renew}`)
    for (const takeover of ['never', '', 1, null]) await expectRefused(attempt({ takeover }), `takeover ${takeover}`)
    for (const signal of [{}, 'abort', new AbortController(), null]) await expectRefused(attempt({ signal }), 'signal')
    await expectRefused({
      'run without options': () => locks.run(name, body as unknown as LockOptions, undefined as never),
      'run without a body': () => locks.run(name, {}, undefined as never),
      'tryRun without a body': () => locks.tryRun(name, {}, 'body' as never),
      list: () => locks.list(null as never),
      'list prefix': () => locks.list({ prefix: 42 as never }),
      'purge without options': () => locks.purge(undefined as never),
      'purge without a duration': () => locks.purge({} as never),
      forceRelease: () => locks.forceRelease(name, null as never),
    })
    expect(await locks.inspect(name)).toBeNull()
  })

  it('takes undefined for an option that was left out', async () => {
    const { locks } = subject
    const nothing = { ttl: undefined, wait: undefined, signal: undefined, renew: undefined, maxHold: undefined }
    const lease = await locks.acquire(freshName(), { ...nothing, takeover: undefined })
    expect(lease.toJSON().ttlMs).toBe(40_000)
    await lease.release()
    expect(await locks.run(freshName(), undefined as unknown as LockOptions, () => 1)).toBe(1)
    expect(await locks.list({ prefix: undefined as never })).toEqual(await locks.list(undefined))
  })

  it('takes what createLocks was given as defaults', async () => {
    const { database, others } = subject
    const locks = await database.locks({ ttl: '1m', wait: '50ms', maxHold: '40s', renew: false })
    const lease = await locks.acquire(freshName())
    expect(lease.toJSON().ttlMs).toBe(60_000)
    expect(lease.remainingMs()).toBeLessThan(40_000)
    expect((await others.inspect(lease.name))?.expiresInMs).toBeLessThanOrEqual(40_000)
    const error = await locks.acquire(lease.name).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'LOCK_TIMEOUT' })
    const longer = await locks.acquire(freshName(), { ttl: '2m', maxHold: '3m' })
    expect(longer.toJSON().ttlMs).toBe(120_000)
    await Promise.all([lease.release(), longer.release()])
  })

  it('refuses settings that no instance can have', async () => {
    const { adapter } = subject.connected
    const settings: Record<string, unknown>[] = [
      { holder: ''.padEnd(256, 'x') },
      { holder: 42 },
      { holder: '\ud800' },
      { holder: 'a\0b' },
      { renew: 'yes' },
      { takeover: 'sometimes' },
    ]
    if (subject.engine.engine !== 'memory') {
      const noNames = ['', 'a?b', 'a:b', 'a$1', 'a;b', 'a\\b', 'a\nb', "a'b", ' a', 'a ', '-a', 'a*/b', 'a\0b']
      const noIdentifiers = [...noNames, 'x'.repeat(41), 'é'.repeat(21), 42, null, {}]
      settings.push(...noIdentifiers.map((tablePrefix) => ({ tablePrefix })))
      settings.push(...noIdentifiers.map((schema) => ({ schema })))
      if (subject.engine.engine !== 'postgres') settings.push({ schema: 'locks' })
    }
    for (const each of settings) {
      await expectRefused({ createLocks: () => createLocks(adapter, each as InstanceOptions) }, JSON.stringify(each))
    }
    await expectRefused({ 'options null': () => createLocks(adapter, null as never) })
  })

  it('refuses what is no adapter, and says which there are', async () => {
    const none: unknown[] = [undefined, null, {}, 'postgres', { engine: 'oracle' }, { query: () => undefined }]
    for (const each of none) {
      await expectRefused({ createLocks: () => createLocks(each as Adapter<unknown>) }, String(each))
      expect(() => createLocks(each as Adapter<unknown>)).toThrow('fromPg')
    }
  })
}

async function expectRefused(calls: Record<string, () => unknown>, what = ''): Promise<void> {
  for (const [verb, call] of Object.entries(calls)) {
    const outcome = await settled((async () => call())())
    expect(outcome, `${verb} ${what}`).toMatchObject({ status: 'rejected', reason: { code: 'INVALID_ARGUMENT' } })
    expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(LockError)
  }
}
