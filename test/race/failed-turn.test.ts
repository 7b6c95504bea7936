import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks } from '../../src/index.ts'
import { recordEvents, untilWaiting } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from './one-per-engine.ts'

describe.each(servedEngines)('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('the lock that a transaction is handed as it fails goes to the next in the queue', async () => {
    const connected = await open.connect()
    const adapter = connected.adapter as SqlAdapter<unknown>
    let broken = false
    const breaking: SqlAdapter<unknown> = {
      ...adapter,
      queryIn: (tx, statement) =>
        broken ? Promise.reject(new Error('the connection broke')) : adapter.queryIn(tx, statement),
    }
    await using locks = createLocks(breaking, { wait: '1m' })
    await using others = await open.locks()
    const events = recordEvents(others)
    const name = freshName()
    const lease = await others.acquire(name)
    const failing = connected.transaction((tx) => locks.within(tx).acquire(name)).catch((error: unknown) => error)
    await untilWaiting(others, name)
    broken = true
    const acquiring = others.acquire(name, { wait: '1m' })
    await untilWaiting(others, name, 2)
    await lease.release()
    const next = await acquiring
    expect(await failing).toMatchObject({ code: 'DATABASE', failure: 'connection' })
    // As it would be if the hold had to run out.
    expect(events.map(({ type }) => type)).not.toContain('takeover')
    expect(await next.release()).toBe(true)
  })
})
