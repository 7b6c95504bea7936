declare module 'redlock' {
  import type { Redis } from 'ioredis'

  export interface Lock {
    unlock(): Promise<void>
    extend(ttl: number): Promise<Lock>
  }

  export default class Redlock {
    constructor(clients: Redis[], options?: { retryCount?: number; retryDelay?: number; retryJitter?: number })
    lock(resource: string, ttl: number): Promise<Lock>
  }
}
