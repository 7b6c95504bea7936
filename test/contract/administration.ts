import { hostname } from 'node:os'
import { expect, it } from 'vitest'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventOf, eventually, recordEvents, type Subject, sleep, untilFree, untilWaiting } from './harness.ts'

export function administrationSuite(subject: Subject): void {
  it('a token that is undefined by mistake evicts nobody', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName())
    const gone = await others.inspect(freshName())
    for (const token of [gone?.token, null, '1', 0n, 2n ** 63n]) {
      const refused = others.forceRelease(lease.name, { token } as never)
      await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    expect(await others.forceRelease(lease.name, { token: lease.token - 1n })).toBe(false)
    expect(await lease.release()).toBe(true)
  })

  it('inspects who holds a lock, and for how long', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName(), { ttl: '10s' })
    const { name, owner, token } = lease
    const holder = { owner, token, holder: `${hostname()}:${process.pid}`, expiresInMs: expect.any(Number) }
    const nobodyWaits = { waiters: 0, queue: [] }
    expect(await others.inspect(name)).toEqual({
      name,
      mode: 'exclusive',
      ...holder,
      holders: [{ ...holder, weight: 1, acquiredAt: expect.any(Date) }],
      ...nobodyWaits,
    })
    const { expiresInMs } = (await others.inspect(name))!
    expect(expiresInMs).toBeGreaterThan(5000)
    expect(expiresInMs).toBeLessThanOrEqual(10_000)
    await lease.release()
  })

  it('inspects nothing of a lock that is free: never held, released or expired', async () => {
    const { locks, others } = subject
    const [released, expired] = [freshName(), freshName()]
    await (await locks.acquire(released)).release()
    await locks.acquire(expired, { ttl: '100ms', renew: false })
    await untilFree(others, expired)
    for (const name of [freshName(), released, expired]) expect(await others.inspect(name)).toBeNull()
  })

  it('shows the holder that the instance was given', async () => {
    const { database, others } = subject
    const holder = 'Jürgen’s worker 3 😀'
    const locks = await database.locks({ ...DEFAULTS, holder })
    const lease = await locks.acquire(freshName())
    expect(await others.inspect(lease.name)).toMatchObject({ holder })
    expect(await others.list({ prefix: lease.name })).toMatchObject([{ holder }])
    await expect(others.acquire(lease.name, { wait: 0 })).rejects.toThrow(holder)
    await lease.release()
  })

  it('counts the waiters of all instances', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await others.acquire(name)
    const waiting = [locks.acquire(name), others.acquire(name)]
    await untilWaiting(locks, name, 2)
    expect(await locks.list({ prefix: name })).toMatchObject([{ name, waiters: 2 }])
    expect(await others.inspect(name)).toMatchObject({ waiters: 2 })
    await lease.release()
    const [first, second] = waiting.map((promise) => promise.then((lease) => lease.release()))
    expect([await first, await second]).toEqual([true, true])
  })

  it('lists the locks that are held, in byte order, by prefix', async () => {
    const { locks, others } = subject
    const prefix = freshName()
    const held = ['a', 'B', 'b', 'ä', 'Z', '😀', '', 'aa', '~'].map((name) => `${prefix}${name}`)
    const leases = await Promise.all(held.map((name, index) => [locks, others][index % 2]!.acquire(name)))
    await (await locks.acquire(`${prefix}released`)).release()
    await locks.acquire(`${prefix}expired`, { ttl: '100ms', renew: false })
    await untilFree(locks, `${prefix}expired`)

    const listed = await locks.list({ prefix })
    expect(listed.map(({ name }) => name)).toEqual(
      [...held].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
    )
    for (const { name, owner, token } of leases) {
      expect(listed.find((info) => info.name === name)).toMatchObject({ owner, token })
    }
    expect((await locks.list({ prefix: `${prefix}a` })).map(({ name }) => name)).toEqual([`${prefix}a`, `${prefix}aa`])
    expect(await locks.list({ prefix: `${prefix}A` })).toEqual([])
    expect((await locks.list()).length).toBeGreaterThanOrEqual(held.length)
    await Promise.all(leases.map((lease) => lease.release()))
    expect(await locks.list({ prefix })).toEqual([])
  })

  it('takes every character of a prefix literally', async () => {
    const { locks } = subject
    const start = freshName()
    const special = [
      '%',
      '_',
      "'",
      '"',
      '\\',
      '*',
      '[a]',
      '.',
      '^',
      '$1',
      '?',
      ' ',
      '\u00e9',
      'e\u0301',
      '😀',
      '\\%',
      "''",
    ]
    const leases = await Promise.all([...special, 'x', 'xy'].map((each) => locks.acquire(`${start}${each}`)))
    for (const each of special) {
      const names = (await locks.list({ prefix: `${start}${each}` })).map(({ name }) => name)
      const expected = [...special, 'x', 'xy']
        .filter((other) => other.startsWith(each))
        .map((each) => `${start}${each}`)
      expect(new Set(names), `prefix ${each}`).toEqual(new Set(expected))
    }
    await Promise.all(leases.map((lease) => lease.release()))
  })

  it('force-releases a lock that is held, whoever holds it', async () => {
    const { locks, others } = subject
    const events = recordEvents(others)
    const lease = await locks.acquire(freshName())
    expect(await others.forceRelease(lease.name)).toBe(true)
    expect(await others.inspect(lease.name)).toBeNull()
    expect(await eventOf(events, 'forced', lease.name)).toEqual({ type: 'forced', name: lease.name })
    const next = await others.acquire(lease.name, { wait: 0 })
    expect(next.token).toBeGreaterThan(lease.token)
    expect(await lease.release()).toBe(false)
    expect(next.isHeld()).toBe(true)
    await next.release()
  })

  it('answers false when there is nothing to force-release', async () => {
    const { locks, others } = subject
    const [released, expired] = [freshName(), freshName()]
    await (await locks.acquire(released)).release()
    await locks.acquire(expired, { ttl: '100ms', renew: false })
    await untilFree(others, expired)
    for (const name of [freshName(), released, expired]) expect(await others.forceRelease(name)).toBe(false)
  })

  it('serves a waiter after a force-release', async () => {
    const { locks, others } = subject
    const name = freshName()
    await locks.acquire(name)
    const waiting = others.acquire(name)
    await untilWaiting(others, name)
    await locks.forceRelease(name)
    await (await waiting).release()
  })

  // SQLite has one writer, and PGlite one session: there every call waits for the transaction.
  it.skipIf(subject.engine.engine === 'sqlite' || subject.engine.connector === 'pglite')(
    'waits for a guarded transaction before it force-releases, at most for `wait`',
    async () => {
      const { locks, others, connected } = subject
      const lease = await locks.acquire(freshName())
      const forcing: { over?: Promise<boolean> } = {}
      await connected.transaction(async (tx) => {
        await lease.guard(tx)
        await expect(others.forceRelease(lease.name, { wait: 100 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
        forcing.over = others.forceRelease(lease.name)
        await sleep(50)
      })
      expect(await forcing.over).toBe(true)
      expect(await lease.release()).toBe(false)
    },
  )

  it('purges what has been idle for long enough, and nothing that is held', async () => {
    const { locks, others } = subject
    const [one, two, expired, held] = [freshName(), freshName(), freshName(), freshName()]
    const purgeAll = () =>
      eventually(async () => {
        await locks.purge({ idleFor: 0 })
        expect(await locks.purge({ idleFor: 0 })).toBe(0)
      })
    // What other tests left, once its tokens have fallen behind the clock.
    await sleep(20)
    await purgeAll()

    const lease = await locks.acquire(held)
    await (await locks.acquire(one)).release()
    await (await others.acquire(two)).release()
    await locks.acquire(expired, { ttl: '100ms', renew: false })
    expect(await locks.purge({ idleFor: '1h' })).toBe(0)
    await untilFree(locks, expired)
    await sleep(20)
    expect(await locks.purge({ idleFor: '1h' })).toBe(0)
    expect(await locks.purge({ idleFor: 0 })).toBe(3)
    expect(await locks.purge({ idleFor: 0 })).toBe(0)

    expect(await others.inspect(held)).toMatchObject({ owner: lease.owner, token: lease.token })
    expect(await lease.release()).toBe(true)
  })

  it('purges by any duration', async () => {
    const { locks } = subject
    for (const idleFor of ['7d', '10000d', 100 * 365 * 24 * 3600 * 1000] as const) {
      expect(await locks.purge({ idleFor })).toBe(0)
    }
  })
}
