import { expect, it } from 'vitest'
import type { MemoryAdapter } from '../../src/adapters/adapter.ts'
import type { Lease, Locks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { eventually, type Subject, untilFree } from './harness.ts'

/** In microseconds since 1970 the year 2255, just below 2^53. */
const AHEAD_OF_THE_CLOCK = 9_000_000_000_000_000n

export function tokensSuite(subject: Subject): void {
  it('raises the token with every change of owner: release, expiry, force-release, purge and re-creation', async () => {
    const { locks, others } = subject
    const name = freshName()
    const tokens: bigint[] = []
    const take = async (from: Locks<unknown>, ttl: '1m' | '200ms' = '1m'): Promise<Lease<unknown>> => {
      const lease = await from.acquire(name, { ttl, renew: false })
      tokens.push(lease.token)
      return lease
    }

    await (await take(locks)).release()
    await (await take(others)).release()
    await take(locks, '200ms')
    await untilFree(locks, name)
    await take(others)
    await locks.forceRelease(name)
    await (await take(locks)).release()
    await purge(subject, name)
    await (await take(others)).release()
    await purge(subject, name)
    await take(locks, '200ms')
    await untilFree(locks, name)
    await purge(subject, name)
    await (await take(others)).release()

    expect(tokens).toHaveLength(8)
    expectRising(tokens)
  })

  it('raises the token each time of many short holds', async () => {
    const { locks } = subject
    const name = freshName()
    const tokens: bigint[] = []
    for (let round = 0; round < 30; round++) {
      const lease = await locks.acquire(name)
      tokens.push(lease.token)
      await lease.release()
    }
    expectRising(tokens)
  })

  it('gives out tokens of about the microseconds since 1970, as bigint', async () => {
    const { locks } = subject
    const lease = await locks.acquire(freshName())
    expect(lease.token).toBeTypeOf('bigint')
    const off = lease.token - BigInt(Date.now()) * 1000n
    expect(off < 60_000_000n && off > -60_000_000n).toBe(true)
    await lease.release()
  })

  it('writes tokens as text in JSON', async () => {
    const { locks } = subject
    const lease = await locks.acquire(freshName())
    const { name, owner, token } = lease
    expect(JSON.parse(JSON.stringify({ lease }))).toEqual({ lease: { name, owner, token: `${token}`, ttlMs: 40_000 } })
    await lease.release()
  })

  it('keeps the token while a lease is renewed, extended or restored', async () => {
    const { locks, others } = subject
    const lease = await locks.acquire(freshName())
    await lease.extend('30s')
    const restored = await others.restore(lease.toJSON())
    expect([lease.token, restored.token]).toEqual([lease.token, lease.token])
    expect(await locks.inspect(lease.name)).toMatchObject({ token: lease.token })
    await lease.release()
    await restored.release()
  })

  it('goes on from a stored token that is ahead of the clock', async () => {
    const { locks, others } = subject
    const name = freshName()
    await (await locks.acquire(name)).release()
    await storeToken(subject, name, AHEAD_OF_THE_CLOCK)

    const first = await locks.acquire(name, { ttl: '200ms', renew: false })
    expect(first.token).toBe(AHEAD_OF_THE_CLOCK + 1n)
    expect(first.toJSON().token).toBe('9000000000000001')
    const second = await others.acquire(name)
    expect(second.token).toBe(AHEAD_OF_THE_CLOCK + 2n)
    expect(await locks.inspect(name)).toMatchObject({ token: AHEAD_OF_THE_CLOCK + 2n })
    const restored = await locks.restore(JSON.parse(JSON.stringify(second)))
    expect(restored.token).toBe(AHEAD_OF_THE_CLOCK + 2n)
    await second.extend('30s')

    await locks.forceRelease(name)
    const third = await locks.acquire(name)
    expect(third.token).toBe(AHEAD_OF_THE_CLOCK + 4n)
    await third.release()
  })

  it('purges no lock whose token is ahead of the clock: a new row would start below it', async () => {
    const { locks } = subject
    const name = freshName()
    await (await locks.acquire(name)).release()
    await storeToken(subject, name, AHEAD_OF_THE_CLOCK)
    await locks.purge({ idleFor: 0 })
    const lease = await locks.acquire(name)
    expect(lease.token).toBe(AHEAD_OF_THE_CLOCK + 1n)
    await lease.release()
  })
}

function expectRising(tokens: readonly bigint[]): void {
  for (const [index, token] of tokens.entries()) {
    if (index > 0) expect(token, `token ${index} of ${tokens}`).toBeGreaterThan(tokens[index - 1]!)
  }
}

/** Purges until the lock's row is gone: its token must have fallen behind the clock, and nobody may have it locked. */
async function purge({ locks, engine, connected }: Subject, name: string): Promise<void> {
  await eventually(async () => {
    await locks.purge({ idleFor: 0 })
    if (engine.engine === 'memory') expect(memoryRow(connected.adapter, name)).toBeUndefined()
    else expect(await connected.sql(`select 1 from rowlock_locks where name = '${name}'`)).toEqual([])
  })
}

async function storeToken({ engine, connected }: Subject, name: string, token: bigint): Promise<void> {
  if (engine.engine === 'memory') {
    const found = memoryRow(connected.adapter, name)!
    found.row = { ...found.row, token }
  } else await connected.sql(`update rowlock_locks set token = ${token} where name = '${name}'`)
}

function memoryRow(adapter: Subject['connected']['adapter'], name: string) {
  return (adapter as MemoryAdapter).database.rows.get(name)
}
