import { afterEach, describe, expect, it, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { assess, readTopology } from '../../src/engines/topology.ts'
import type { Lease, LockError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { wantedServers } from '../servers/index.ts'
import { type Application, openApplication, untilSeen } from './application.ts'
import { type StreamingPair, startStreaming } from './streaming.ts'

const LOST_GRANTS = 50

describe.skipIf(!wantedServers().includes('postgres15'))('on PostgreSQL with a standby', { timeout: 90_000 }, () => {
  let pair: StreamingPair | undefined
  const opened: Application[] = []

  afterEach(async () => {
    // What waits for the standby would wait for ever.
    pair?.heal()
    await Promise.all(opened.splice(0).map((application) => application.close()))
    await pair?.stop()
    pair = undefined
  }, 60_000)

  /** An application of the primary, and one of the standby, which can only look until that is promoted. */
  const start = async (synchronous: boolean) => {
    const running = await startStreaming({ synchronous })
    pair = running
    const before = openApplication('pg', running.primary, 'postgres', { statementTimeout: '2s' })
    const after = openApplication('pg', running.standby, 'postgres')
    opened.push(before, after)
    await before.locks.migrate()
    await vi.waitFor(() => after.locks.list(), { timeout: 20_000 })
    return { pair: running, before, after }
  }

  const failOver = async ({ primary, promote }: StreamingPair) => {
    await primary.kill()
    await promote()
  }

  it('a standby is recognised, and grants nothing', async () => {
    const { before, after } = await start(false)
    const topologyOf = ({ adapter }: Application) =>
      readTopology('postgres', (statement) => (adapter as SqlAdapter<unknown>).query(statement))
    expect((await topologyOf(before)).settings.in_recovery).toBe('false')
    expect((await topologyOf(after)).settings.in_recovery).toBe('true')
    expect(assess(await topologyOf(before))).toEqual({ refusal: null, warnings: [] })
    await expect(after.locks.tryAcquire(freshName())).rejects.toMatchObject({ code: 'DATABASE' })
  })

  it('tokens do not repeat after a failover to an asynchronous standby that lost the last commits', async () => {
    const { pair, before, after } = await start(false)
    const [known, unknown] = [freshName(), freshName()]
    const seen = await before.locks.acquire(known, { ttl: '2s' })
    await untilSeen(after, known)
    await seen.release()

    pair.partition()
    const lost: Lease<unknown>[] = []
    for (const name of [known, unknown]) {
      for (let grants = 1; grants < LOST_GRANTS; grants++) {
        const lease = await before.locks.acquire(name)
        lost.push(lease)
        await lease.release()
      }
      // The last of them is held when the primary dies.
      lost.push(await before.locks.acquire(name, { renew: false }))
    }
    await failOver(pair)

    const tokens = new Set(lost.map(({ token }) => token))
    expect(tokens.size).toBe(2 * LOST_GRANTS)
    const highest = lost.reduce((max, { token }) => (token > max ? token : max), 0n)
    for (const held of lost.filter((lease) => lease.isHeld())) {
      // It still believes that it holds the lock, which is why only its guard is to be trusted.
      const next = await after.locks.acquire(held.name, { wait: '20s' })
      expect(next.token).toBeGreaterThan(highest)
      const late = after.transaction((tx) => held.guard(tx))
      await expect(late).rejects.toMatchObject({ code: 'LOCK_LOST' })
      const restored = after.locks.restore(JSON.parse(JSON.stringify(held)))
      await expect(restored).rejects.toMatchObject({ code: 'LOCK_LOST' })
    }
  })

  it('no lease that was reported is lost in a failover to a synchronous standby', async () => {
    const { pair, before, after } = await start(true)
    const leases = await Promise.all(
      Array.from({ length: 20 }, () => before.locks.acquire(freshName(), { ttl: '5m', renew: false })),
    )
    pair.partition()
    expect(await triedInVain(before)).toBe(true)
    await failOver(pair)
    for (const lease of leases) {
      expect(await after.locks.tryAcquire(lease.name)).toBe(null)
      const moved = await after.locks.restore(JSON.parse(JSON.stringify(lease)))
      await after.transaction((tx) => moved.guard(tx))
      expect(await moved.release()).toBe(true)
      expect((await after.locks.acquire(lease.name)).token).toBeGreaterThan(lease.token)
    }
  })
})

/** Nothing is granted that the standby does not have. Behind its own first attempt, a second one finds the row locked. */
async function triedInVain({ locks }: Application): Promise<boolean> {
  try {
    return (await locks.tryAcquire(freshName())) === null
  } catch (error) {
    return (error as LockError).code === 'DATABASE'
  }
}
