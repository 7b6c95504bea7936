import { EventEmitter, once } from 'node:events'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Result, SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from './one-per-engine.ts'
import { stopping } from './stopping.ts'

/** Within that time the transaction has asked for the lock, and waits. */
const LONG_ENOUGH_MS = 200

// Where a transaction that has waited in vain for a row can only roll back.
describe.each(servedEngines.filter(({ engine }) => engine === 'mysql'))('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('a transaction does not wait behind the statement by which it lines up itself', async () => {
    const connected = await open.connect()
    const adapter = connected.adapter as SqlAdapter<unknown>
    const stops = stopping(adapter)
    await using locks = createLocks(stops.adapter, { wait: '1m' })
    await using others = await open.locks()
    const name = freshName()
    const lease = await others.acquire(name)
    // After which it knows the server.
    expect(await locks.tryAcquire(name)).toBeNull()

    let stopped = stops.next()
    const holding = connected.transaction(async (tx) => (await locks.within(tx).acquire(name)).token)
    // One after the other: the look, and the arrival in the queue, which takes long.
    const look = await stopped
    stopped = stops.next()
    look.answer(await look.send())
    const arrival = await stopped
    await lease.release()
    const user = await open.connect()
    const told = new EventEmitter()
    const arrived = once(told, 'arrived')
    let result: Result | undefined
    const arriving = user.transaction(async (tx) => {
      result = await (user.adapter as SqlAdapter<unknown>).queryIn(tx, arrival.statement)
      told.emit('arrived')
      await new Promise((resolve) => setTimeout(resolve, LONG_ENOUGH_MS))
    })
    await arrived
    await arriving
    // As one that has committed by itself.
    arrival.answer({ ...result!, inTransaction: false })
    expect(await holding).toBeGreaterThan(lease.token)
  })
})
