import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { createLocks } from '../../src/index.ts'
import { connectionReset, eventually, untilWaiting } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from './one-per-engine.ts'

const LEFT = new Error('left')

describe.each(servedEngines)('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it.each([
    { who: 'a caller', modes: ['exclusive'] },
    { who: 'each of several callers, with modes in turn,', modes: ['exclusive', 'shared', 'exclusive', 'shared'] },
  ] as const)('$who who never heard that it is queued leaves nothing in the queue', async ({ modes }) => {
    await using others = await open.locks()
    const name = freshName()
    const adapter = (await open.connect()).adapter as SqlAdapter<unknown>
    let isLost = false
    await using locks = createLocks({
      ...adapter,
      dedicate: undefined,
      async query(statement: Statement) {
        const result = await adapter.query(statement)
        const state = isLost ? null : await others.inspect(name)
        if (state === null || state.waiters === 0) return result
        isLost = true
        throw connectionReset()
      },
    } as unknown as SqlAdapter<unknown>)
    const lease = await others.acquire(name)
    const controller = new AbortController()
    const acquiring = modes.map((mode) => locks.acquire(name, { mode, wait: '10m', signal: controller.signal }))
    await Promise.all([
      ...acquiring.map((each) => expect(each).rejects.toBe(LEFT)),
      eventually(() => expect(isLost).toBe(true)).then(() => controller.abort(LEFT)),
    ])
    await untilWaiting(others, name, 0)
    expect(await lease.release()).toBe(true)
    await (await others.acquire(name, { wait: 0 })).release()
  })
})
