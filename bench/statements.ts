import { EventEmitter } from 'node:events'
import { Redis } from 'ioredis'
import mysql from 'mysql2'
import pg from 'pg'
import { now } from './harness.ts'

/** A statement, or a command to Redis, that this process has sent; times as of `now`. */
export interface Sent {
  readonly sentAt: number
  /** NaN until the answer is there. */
  answeredAt: number
}

type Method = (this: unknown, ...values: unknown[]) => unknown

let recording: Sent[] | null = null

// In the drivers themselves, so that every library is counted alike, whatever connections it opens.
watch(pg.Client.prototype, 'query')
const { Connection } = mysql as unknown as { Connection: { prototype: object } }
watch(Connection.prototype, 'query')
watch(Connection.prototype, 'execute')
watch(Redis.prototype, 'sendCommand')

/** From now on all statements are recorded, until the function returned is called, which answers them. */
export function recordStatements(): () => Sent[] {
  const sent: Sent[] = []
  recording = sent
  return () => {
    recording = null
    return sent
  }
}

/** For drivers whose calls cannot be watched from outside. */
export async function recorded<T>(send: () => Promise<T>): Promise<T> {
  const answered = record()
  try {
    return await send()
  } finally {
    answered()
  }
}

function record(): () => void {
  if (recording === null) return () => undefined
  const statement: Sent = { sentAt: now(), answeredAt: Number.NaN }
  recording.push(statement)
  return () => {
    statement.answeredAt = now()
  }
}

function watch(prototype: object, method: string): void {
  const methods = prototype as Record<string, Method>
  const original = methods[method]!
  methods[method] = function (...values) {
    if (recording === null) return original.apply(this, values)
    const answered = record()
    const callback = values.at(-1)
    if (typeof callback === 'function') {
      values[values.length - 1] = function (this: unknown, ...results: unknown[]) {
        answered()
        return callback.apply(this, results)
      }
      return original.apply(this, values)
    }
    const answer = original.apply(this, values)
    if (answer instanceof Promise) answer.then(answered, answered)
    // The pools of mysql2 hand their connections commands that tell when they are done.
    else if (answer instanceof EventEmitter) answer.once('end', answered)
    return answer
  }
}
